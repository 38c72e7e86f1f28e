"""How important each patch is, computed alongside one attention layer of a vision tower, which keeps its kernel.

Where the tower has a [CLS] token: its attention to the patches (Zhang et al., arXiv 2412.01818, section 3.2). Where it
has none: the attention that each patch receives, mean over queries and heads, the rule of the paper's authors for such
towers. Both are computed from the layer's input for that layer alone.

Shapes: K crops, N patches, M tokens (1 + N with [CLS]), H heads, C channels.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from llava.pruning.importance import paid_by_cls, received


class Watched:
    """Modules that were watched while a tower ran: the named arguments or the output of the last call of each."""

    def __init__(self) -> None:
        self.inputs: dict[nn.Module, dict] = {}
        self.outputs: dict[nn.Module, torch.Tensor] = {}

    def hidden_states(self, module: nn.Module) -> torch.Tensor:
        """The first argument of a module."""
        return self.inputs[module]["hidden_states"]


@contextmanager
def watching(*, inputs: list[nn.Module] = (), outputs: list[nn.Module] = ()) -> Iterator[Watched]:
    """Note what goes into some modules and comes out of others, in this thread, until the block ends."""
    watched, thread = Watched(), threading.get_ident()

    # a hook of another thread may have been removed half, and is then called without the named arguments
    def note_input(module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        if threading.get_ident() == thread:
            watched.inputs[module] = {**({"hidden_states": args[0]} if args else {}), **kwargs}

    def note_output(module: nn.Module, args: tuple, output: torch.Tensor | tuple) -> None:
        if threading.get_ident() == thread:
            watched.outputs[module] = output[0] if isinstance(output, tuple) else output

    handles = [module.register_forward_pre_hook(note_input, with_kwargs=True) for module in inputs]
    handles += [module.register_forward_hook(note_output) for module in outputs]
    try:
        yield watched
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def cls_attention(attention: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """(K, N) float32: attention of [CLS] to the patches after the softmax over all M keys, mean over heads.

    Args:
        attention: with `q_proj`, `k_proj`, `num_heads`, `scale`, and perhaps `q_norm`, `k_norm`.
        hidden_states: (K, M, C), its input, [CLS] first.
    """
    query, keys = _project(attention, "q", hidden_states[:, :1]), _project(attention, "k", hidden_states)
    return paid_by_cls(query, keys, attention.scale).mean(dim=1)


@torch.no_grad()
def received_attention(
    attention: nn.Module, hidden_states: torch.Tensor, is_patch: torch.BoolTensor | None = None
) -> torch.Tensor:
    """(K, N) float32: the attention that each patch receives, mean over queries and heads.

    Args:
        attention: as in `cls_attention`.
        hidden_states: (K, N, C), its input, with no [CLS].
        is_patch: (K, N), false where there is padding, which neither gives nor receives; None for none.
    """
    queries, keys = _project(attention, "q", hidden_states), _project(attention, "k", hidden_states)
    number = hidden_states.shape[1] if is_patch is None else is_patch.sum(dim=1, keepdim=True)
    return received(queries, keys, attention.scale, is_patch) / number


def _project(attention: nn.Module, name: str, hidden_states: torch.Tensor) -> torch.Tensor:
    """Queries or keys of tokens (K, M, C), by `name`: (K, H, M, head width)."""
    projected = getattr(attention, f"{name}_proj")(hidden_states)
    norm = getattr(attention, f"{name}_norm", None)
    projected = projected if norm is None else norm(projected)
    return projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
