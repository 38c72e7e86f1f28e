"""A CUDA graph on the CPU: what a function did to memory is done again, without the Python that chose it."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llava.pruning.kernels import duplicates, greedy
from llava.pruning.methods import vispruner


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.done.append((func, args, kwargs or {}, result))
        return result


def record(work):
    """`work` is done once; what is returned does the same operations on the same memory."""
    tape = _Tape()
    with tape:
        result = work()

    def replay():
        for func, args, kwargs, made in tape.done:
            new = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, own in zip(tree_leaves(made), tree_leaves(new)):
                    if isinstance(old, torch.Tensor):
                        old.copy_(own)
        return result

    return replay


# The kernels that choose are one operation each, as on a GPU; on the CPU they are NumPy, which no tape sees.
_pick = greedy._pick


@torch.library.custom_op("tests::drop_duplicates", mutates_args=())
def _drop_duplicates(similarity: torch.Tensor, keep: int, in_order: bool) -> torch.Tensor:
    return duplicates.drop_duplicates(similarity, keep, in_order).clone()


@torch.library.custom_op("tests::pick", mutates_args=())
def _picked(
    rule: str, matrix: torch.Tensor, first: torch.Tensor, number: int, weight: torch.Tensor | None
) -> torch.Tensor:
    return _pick(rule, matrix, first, number, weight).clone()


def use_in(monkeypatch, model) -> None:
    """Let a model record on this tape, as it does on a GPU."""
    monkeypatch.setattr(vispruner, "drop_duplicates", lambda *own: _drop_duplicates(*own))
    monkeypatch.setattr(greedy, "_pick", lambda *own: _picked(*own, *[None] * (5 - len(own))))
    monkeypatch.setattr(model, "records", True)
    monkeypatch.setattr(model, "_graphs", None)
    model.graphs.recorder.record = record


def said(caplog) -> list[str]:
    """What was said to run uncompiled."""
    return [record.getMessage() for record in caplog.records if record.name == "llava.model.graphs"]
