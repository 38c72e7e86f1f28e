"""How important each patch is to a vision tower without a [CLS] token: the attention that it receives.

Mean over queries and heads, the rule of the authors of Zhang et al., arXiv 2412.01818, for such towers.
Shapes: K crops, N patches, H heads.
"""

import torch

QUERIES_AT_ONCE = 256


@torch.no_grad()
def received(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, is_patch: torch.BoolTensor | None = None
) -> torch.Tensor:
    """(K, N) float32: the attention that each key receives, summed over queries, mean over heads.

    Args:
        queries, keys: (K, H, N, head width). The queries come in blocks, so that no whole map is ever in memory.
        scale: of their products.
        is_patch: (K, N), false where there is padding, which neither gives nor receives; None for none.
    """
    crops, heads, patches, _ = queries.shape
    total = torch.zeros(crops, patches, device=queries.device)
    keys = keys.transpose(-1, -2)
    for start in range(0, patches, QUERIES_AT_ONCE):
        block = slice(start, start + QUERIES_AT_ONCE)
        scores = (queries[:, :, block] @ keys) * scale
        if is_patch is not None:
            scores = scores.masked_fill(~is_patch[:, None, None], torch.finfo(scores.dtype).min)
        given = scores.softmax(dim=-1, dtype=torch.float32)
        if is_patch is not None:
            given = given * is_patch[:, None, block, None]
        total += given.sum(dim=(1, 2))
    return total / heads
