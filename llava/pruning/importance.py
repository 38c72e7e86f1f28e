"""How important each patch is to a vision tower: the attention that [CLS] pays to it, or all that it receives.

Zhang et al., arXiv 2412.01818: the attention of [CLS] in section 3.2; for towers without [CLS] the rule of the paper's
authors, the mean over queries and heads of the attention that a patch receives.

Shapes: K crops, N patches, H heads.
"""

import torch

QUERIES_AT_ONCE = 256


def object_place(layers: int, read: int) -> int:
    """Where, from 0, the object layer of a tower of so many `layers` is: at 3/8 of its depth, the 9th of CLIP's 24.

    It is one of the first `read`, which run.
    """
    return min(max(1, 3 * layers // 8), read) - 1


@torch.no_grad()
def paid_by_cls(query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """(K, H, N) float32: the attention of [CLS] to the patches, after the softmax over all 1 + N keys.

    Args:
        query: (K, H, 1, head width), of [CLS].
        keys: (K, H, 1 + N, head width), [CLS] first.
        scale: of their products.
    """
    scores = (query @ keys.transpose(-1, -2)) * scale
    return scores.softmax(dim=-1, dtype=torch.float32)[:, :, 0, 1:]


@torch.no_grad()
def received(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, is_patch: torch.BoolTensor | None = None
) -> torch.Tensor:
    """(K, N) float32: the attention that each key receives, summed over queries, mean over heads.

    Args:
        queries, keys: (K, H, N, head width). The queries come in blocks, so that no whole map is ever in memory.
        scale: of their products.
        is_patch: (K, N), false where there is padding, which neither gives nor receives; None for no padding.
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
