"""How important each patch is to a vision tower: the attention that [CLS] pays to it, or all that it receives.

Zhang et al., arXiv 2412.01818: the attention of [CLS] in section 3.2; for towers without [CLS] the rule of the paper's
authors, the mean over queries and heads of the attention that a patch receives.

Shapes: K crops, N patches, H heads.
"""

from collections.abc import Callable
from importlib.util import find_spec
from itertools import product

import torch
from torch import nn

Rotation = Callable[[torch.Tensor], torch.Tensor]
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

    No whole map is ever in memory: on a GPU with Triton it comes in blocks of a kernel, elsewhere in those of
    `received_in_torch`.

    Args:
        queries, keys: (K, H, N, head width), turned by their positions where the tower has rotary ones.
        scale: of their products.
        is_patch: (K, N), false where there is padding, which neither gives nor receives; None for no padding.
    """
    if queries.is_cuda and find_spec("triton"):
        from llava.pruning.kernels import received_triton

        if received_triton.takes(queries):
            return received_triton.received(queries, keys, scale, is_patch)
    return received_in_torch(queries, keys, scale, is_patch)


@torch.no_grad()
def received_in_torch(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, is_patch: torch.BoolTensor | None = None
) -> torch.Tensor:
    """`received` in plain PyTorch, on any device, by blocks of queries."""
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
    attention: nn.Module,
    hidden_states: torch.Tensor,
    is_patch: torch.BoolTensor | None = None,
    rotate: Rotation | None = None,
) -> torch.Tensor:
    """(K, N) float32: the attention that each patch receives, mean over queries and heads.

    Args:
        attention: as `queries_and_keys` takes it.
        hidden_states: (K, N, C), its input, as the layer normed it; a [CLS] is one of them.
        is_patch: (K, N), false where there is padding, which neither gives nor receives; None for none.
        rotate: what turns queries and keys by their positions, if the tower has such; see `rotation`.
    """
    queries, keys = queries_and_keys(attention, hidden_states, rotate)
    number = hidden_states.shape[1] if is_patch is None else is_patch.sum(dim=1, keepdim=True)
    return received(queries, keys, scale_of(attention), is_patch) / number


@torch.no_grad()
def received_in_segments(
    attention: nn.Module, hidden_states: torch.Tensor, lengths: list[int], rotate: Rotation | None = None
) -> torch.Tensor:
    """(P,) float32: as `received_attention`, but summed over queries, where patches attend to those of their segment.

    Args:
        hidden_states: (P, C), of all segments, one after the other.
        lengths: patches of each segment.
    """
    queries, keys = queries_and_keys(attention, hidden_states.unsqueeze(0), rotate)
    scale = scale_of(attention)
    if len(set(lengths)) == 1:  # as of a video's frames: all at once
        own, others = (states[0].unflatten(1, (len(lengths), -1)).transpose(0, 1) for states in (queries, keys))
        return received(own, others, scale).flatten()
    parts = zip(queries.split(lengths, dim=2), keys.split(lengths, dim=2))
    return torch.cat([received(own, others, scale)[0] for own, others in parts])


def queries_and_keys(
    attention: nn.Module, hidden_states: torch.Tensor, rotate: Rotation | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of tokens (K, M, C), (K, H, M, head width) each, as a layer's attention multiplies them.

    Args:
        attention: with `q_proj` and `k_proj`, or with `qkv`; perhaps with `q_norm` and `k_norm`.
        rotate: as in `received_attention`.
    """
    if getattr(attention, "qkv", None) is not None:
        both = attention.qkv(hidden_states).unflatten(-1, (3, attention.num_heads, -1)).unbind(2)[:2]
        queries, keys = (states.transpose(1, 2) for states in both)
    else:
        queries, keys = project(attention, "q", hidden_states), project(attention, "k", hidden_states)
    if rotate is not None:
        queries, keys = rotate(queries), rotate(keys)
    return queries, keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)


def project(attention: nn.Module, name: str, hidden_states: torch.Tensor) -> torch.Tensor:
    """Queries or keys of tokens (K, M, C), by `name`: (K, H, M, head width)."""
    projected, norm = getattr(attention, f"{name}_proj")(hidden_states), getattr(attention, f"{name}_norm", None)
    width = attention.head_dim
    if norm is not None and getattr(norm, "weight", projected).shape[-1] == projected.shape[-1]:  # of all heads at once
        projected, norm = norm(projected), None
    heads = projected.unflatten(-1, (-1, width))
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def scale_of(attention: nn.Module) -> float:
    """Of the products of queries and keys."""
    return attention.scale if hasattr(attention, "scale") else attention.scaling


def rotation(cos: torch.Tensor, sin: torch.Tensor, axes: int = 1) -> Rotation:
    """What turns queries or keys (K, H, N, head width) by rotary positions (Su et al., arXiv 2104.09864).

    Pairs of channels are the first and second halves of them.

    Args:
        cos, sin: (N, head width), or (K, N, head width).
        axes: how many axes have a part of the channels each, with two halves of its own.
    """
    cos, sin = (values.unsqueeze(-3).float().unflatten(-1, (axes, -1)) for values in (cos, sin))

    def rotate(states: torch.Tensor) -> torch.Tensor:
        parts = states.float().unflatten(-1, (axes, -1))
        first, second = parts.chunk(2, dim=-1)
        turned = parts * cos + torch.cat([-second, first], dim=-1) * sin
        return turned.flatten(-2).to(states.dtype)

    return rotate
