"""How important each patch is to a vision tower: the attention that [CLS] pays to it, or all that it receives.

Zhang et al., arXiv 2412.01818: the attention of [CLS] in section 3.2; for towers without [CLS] the rule of the paper's
authors, the mean over queries and heads of the attention that a patch receives.

Shapes: K crops, N patches, H heads.
"""

from itertools import product

import torch
from torch import nn

QUERIES_AT_ONCE = 256
SCORES_IN_CACHE = 2**19  # 2 MiB


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
    queries, keys = queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)
    total = torch.zeros(crops * heads, patches, device=queries.device)
    is_patch = None if is_patch is None else is_patch.repeat_interleave(heads, dim=0)
    # On a CPU a block's scores stay in the cache.
    at_once = 1 if queries.device.type == "cpu" else crops * heads
    rows = max(16, SCORES_IN_CACHE // patches) if at_once == 1 else QUERIES_AT_ONCE
    for first, start in product(range(0, crops * heads, at_once), range(0, patches, rows)):
        maps, block = slice(first, first + at_once), slice(start, start + rows)
        scores = torch.bmm(queries[maps, block], keys[maps]).mul_(scale)
        if is_patch is not None:
            scores.masked_fill_(~is_patch[maps, None], torch.finfo(scores.dtype).min)
        powers = scores.float().sub_(scores.amax(dim=2, keepdim=True)).exp_()
        share = 1 / powers.sum(dim=2)
        if is_patch is not None:
            share *= is_patch[maps, block]
        total[maps] += torch.bmm(share.unsqueeze(1), powers).squeeze(1)
    return total.view(crops, heads, patches).mean(dim=1)


@torch.no_grad()
def received_attention(
    attention: nn.Module, hidden_states: torch.Tensor, is_patch: torch.BoolTensor | None = None
) -> torch.Tensor:
    """(K, N) float32: the attention that each patch receives, mean over queries and heads.

    Args:
        attention: with `q_proj`, `k_proj`, `num_heads`, `scale`, and perhaps `q_norm`, `k_norm`.
        hidden_states: (K, N, C), its input, as the layer normed it; a [CLS] is one of them.
        is_patch: (K, N), false where there is padding, which neither gives nor receives; None for none.
    """
    queries, keys = project(attention, "q", hidden_states), project(attention, "k", hidden_states)
    number = hidden_states.shape[1] if is_patch is None else is_patch.sum(dim=1, keepdim=True)
    return received(queries, keys, attention.scale, is_patch) / number


def project(attention: nn.Module, name: str, hidden_states: torch.Tensor) -> torch.Tensor:
    """Queries or keys of tokens (K, M, C), by `name`: (K, H, M, head width)."""
    projected = getattr(attention, f"{name}_proj")(hidden_states)
    norm = getattr(attention, f"{name}_norm", None)
    projected = projected if norm is None else norm(projected)
    return projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
