"""Positions with gaps, as images that keep their room leave them: what a KV cache knows of them, and transformers not.

Shapes: B prompts, L their tokens in a call, P tokens in the cache, R rows of the cache, H heads of width d.
"""

from dataclasses import dataclass

import torch
from transformers import Cache

from llava.errors import InputError
from llava.pruning.kv_cache import as_one_sequence, cache_of, cached_length, keys_at

_NAME = "_behind_tokens"  # of a cache's first layer, so that copies have it too


@dataclass(frozen=True)
class _Positions:
    """Where the tokens of a cache stand, which it does not say itself.

    Attributes:
        behind: (R, P) int64: the position of what follows each token.
        keys: (R, H, d) of the last token in a layer that has all, by which rows are known; None where no layer has.
    """

    behind: torch.LongTensor
    keys: torch.Tensor | None


def remember_positions(
    cache: Cache,
    positions: torch.LongTensor,
    mask: torch.Tensor | None,
    is_visual: torch.BoolTensor | None = None,
    ends: torch.LongTensor | None = None,
) -> None:
    """Let a cache know the positions of the tokens that it was filled with last, now that it has their keys.

    Args:
        positions: (R, length).
        mask: (R, P), 0 where there is padding; None where there is none.
        is_visual: (R, length), which of them are visual tokens; if None, any may be.
        ends: (R, 1), the position of what follows; one after the last if None.
    """
    rows, length = positions.shape
    past = int(cached_length(cache)) - length
    mask = positions.new_ones(rows, past + length) if mask is None else mask.to(positions)
    column, own = torch.arange(length, device=positions.device), mask[:, past:]
    ends = (positions * own).amax(dim=1, keepdim=True) + 1 if ends is None else ends
    last = (own * (column + 1)).argmax(dim=1, keepdim=True)  # that is no padding, which may be on the right
    behind = torch.cat([positions[:, 1:], ends], dim=1)
    behind = behind if is_visual is None else behind.where(is_visual, positions + 1)
    behind = behind.where(column < last, ends)
    if past:
        known = _recall(cache, rows)
        before = positions[:, :0] if known is None else known.behind[:, :past]
        start = before[:, -1:] if before.shape[1] else 0
        before = torch.cat([before, start + mask[:, before.shape[1] : past].cumsum(dim=1)], dim=1)
        behind = torch.cat([before, behind], dim=1)
    setattr(cache.layers[0], _NAME, _Positions(behind, keys_at(cache, past + length - 1)))


def trim_positions(cache: Cache | None) -> None:
    """Let a cache that was cut forget the positions of the tokens that it has no more."""
    if (known := _known(cache)) is None or (past := int(cached_length(cache))) >= known.behind.shape[1]:
        return
    left = _Positions(known.behind[:, :past], keys_at(cache, past - 1)) if past else None
    setattr(cache.layers[0], _NAME, left)


def next_positions(cache: Cache | None, rows: int, mask: torch.Tensor | None = None) -> torch.LongTensor | None:
    """(rows, 1): the position of what follows in each row; None where tokens follow one another without gaps.

    `mask` (rows, P or more) is 0 where there is padding. Raises InputError for rows that it did not have.
    """
    trim_positions(cache)
    if (known := _recall(cache, rows)) is None:
        return None
    past, number = int(cached_length(cache)), known.behind.shape[1]
    more = past - number if mask is None else mask[:, number:past].long().sum(dim=1, keepdim=True)
    return known.behind[:, -1:] + more


def positions_after(cache: Cache | None, rows: int, length: int, mask: torch.Tensor | None) -> torch.LongTensor | None:
    """(rows, length): positions of text behind a cache that knows of gaps; None where transformers counts on itself.

    `mask` is (rows, P + length), 0 where there is padding; one of another form is not looked at.
    """
    if cache is None or torch.compiler.is_compiling() or not (past := int(cached_length(cache))):
        return None
    mask = mask if isinstance(mask, torch.Tensor) and mask.shape == (rows, past + length) else None
    if (start := next_positions(cache, rows, mask)) is None:
        return None
    own = start.new_ones(rows, length) if mask is None else mask[:, past:].long()
    return start + (own.cumsum(dim=1) - 1).clamp(min=0)


def keep_whole(positions: torch.LongTensor, mask: torch.Tensor | None, cache: Cache | None) -> dict:
    """Arguments of a language model for prompts at positions (B, L) with gaps: each of them is one sequence.

    Without a mask and a cache transformers would take the gaps for the ends of packed sequences, and so would
    FlashAttention of a single prompt.
    """
    given = {"attention_mask": torch.ones_like(positions) if mask is None and cache is None else mask}
    if len(positions) == 1 < positions.shape[1]:
        given |= as_one_sequence(int(cached_length(cache)), positions.shape[1], positions.device)
    return given


def remember_call(
    cache: Cache | None,
    output,
    positions: torch.LongTensor,
    mask: torch.Tensor | None,
    is_visual: torch.BoolTensor | None,
    ends: torch.LongTensor | None,
) -> None:
    """Let the cache that a call was given, or is in its output, know where the tokens of its prompts stand.

    The arguments are those of `remember_positions`; of `is_visual` (B, L or more) the last count.
    """
    cache = cache_of(output) if cache is None else cache
    rows, length = positions.shape
    if cache is None or (length == 1 and ends is None):  # after a step, what follows is known
        return
    total = int(cached_length(cache))
    mask = mask if isinstance(mask, torch.Tensor) and mask.shape == (rows, total) else None
    remember_positions(cache, positions, mask, None if is_visual is None else is_visual[:, -length:], ends)


def _known(cache: Cache | None) -> _Positions | None:
    layers = getattr(cache, "layers", None)
    return getattr(layers[0], _NAME, None) if layers else None


def _recall(cache: Cache | None, rows: int) -> _Positions | None:
    """What is known of each of the rows, wherever it has been moved to."""
    if (known := _known(cache)) is None:
        return None
    if (known.behind == known.behind[:1]).all():
        return _Positions(known.behind[:1].expand(rows, -1), None)
    found = keys_at(cache, known.behind.shape[1] - 1)
    if known.keys is None or found is None:
        if rows == len(known.behind):
            return known
        raise InputError("the rows of this cache cannot be told apart: start with a new one")
    is_same = (found[:, None] == known.keys[None]).flatten(2).all(dim=2)
    if len(found) != rows or not is_same.any(dim=1).all():
        raise InputError("the cache has rows that it did not have when it was filled: start with a new one")
    return _Positions(known.behind[is_same.int().argmax(dim=1).to(known.behind.device)], found)
