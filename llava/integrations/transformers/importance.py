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

from llava.pruning.importance import Rotation, paid_by_cls, project, queries_and_keys, scale_of


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
def cls_attention(attention: nn.Module, hidden_states: torch.Tensor, rotate: Rotation | None = None) -> torch.Tensor:
    """(K, N) float32: attention of [CLS] to the patches after the softmax over all M keys, mean over heads.

    Args:
        attention: as `queries_and_keys` takes it.
        hidden_states: (K, M, C), its input, [CLS] first.
        rotate: as in `received_attention`.
    """
    if rotate is None and hasattr(attention, "q_proj"):  # one query is enough
        query, keys = project(attention, "q", hidden_states[:, :1]), project(attention, "k", hidden_states)
    else:
        query, keys = queries_and_keys(attention, hidden_states, rotate)
    return paid_by_cls(query[:, :, :1], keys, scale_of(attention)).mean(dim=1)
