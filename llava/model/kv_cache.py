"""KV caches: one whose memory is used again, so that a compiled step can be, and one with room for what follows; and
the next position after one.

Shapes: B prompts, P tokens in the cache, R rows of the cache, H heads of width d.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import Cache, DynamicCache, PreTrainedConfig, StaticCache
from transformers.cache_utils import DynamicLayer

from llava.errors import InputError
from llava.pruning.kv_cache import cached_length

STEP = 256  # tokens: prompts that differ little in length share a cache, hence a CUDA graph
ROOM = 64  # tokens that are added in place before keys and values are copied again


class ReusedCache:
    """A static cache, lent out again while its size fits: CUDA graphs are bound to its memory."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config
        self._free: list[tuple[tuple, StaticCache]] = []  # one at most, none while it is lent

    @contextmanager
    def lend(self, batch: int, length: int) -> Iterator[StaticCache]:
        """An empty cache for `batch` prompts with at least `length` tokens each, answers included.

        If another thread holds the cache, a new one is made.
        """
        # What is made in inference mode cannot be written to outside of it.
        size = (batch, -(-length // STEP) * STEP, torch.is_inference_mode_enabled())
        try:
            held, cache = self._free.pop()
        except IndexError:
            held, cache = None, None
        if held != size:
            cache = StaticCache(config=self.config, max_cache_len=size[1])
        cache.reset()
        try:
            yield cache
        finally:
            self._free[:] = [(size, cache)]


def can_be_static(options: dict) -> bool:
    """Whether generation with these options has one row a prompt, and a cache that is its own to choose."""
    is_single = all((options.get(name) or 1) == 1 for name in ("num_beams", "num_return_sequences"))
    is_free = options.get("use_cache") is not False and options.get("cache_implementation") is None
    return options.get("max_length") is None and is_single and is_free


class _RoomyLayer(DynamicLayer):
    """Keys and values with room behind them. transformers' own layer copies all that it has for each token."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple:
        """The keys and values (R, H, P + new, d) with these (R, H, new, d) added."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._with_room = {}
        length = self.get_seq_length()
        self.keys = self._add("keys", self.keys, key_states, length)
        self.values = self._add("values", self.values, value_states, length)
        return self.keys, self.values

    def _add(self, name: str, old: torch.Tensor, new: torch.Tensor, length: int) -> torch.Tensor:
        whole, used = self._with_room.get(name, (None, None))
        end = length + new.shape[2]
        if used is not old or whole.shape[2] < end:  # cut, or with other rows
            whole = new.new_empty(*new.shape[:2], end + ROOM, new.shape[3])
            if length:
                whole[:, :, :length] = old
        whole[:, :, length:end] = new
        used = whole[:, :, :end]
        self._with_room[name] = whole, used
        return used


def roomy_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache, in which tokens are added in place where a layer has all tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


_NAME = "_next_positions"  # of a cache's first layer, so that copies have it too


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
    setattr(cache.layers[0], _NAME, _Positions(behind, _keys_at(cache, past + length - 1)))


def trim_positions(cache: Cache | None) -> None:
    """Let a cache that was cut forget the positions of the tokens that it has no more."""
    if (known := _known(cache)) is None or (past := int(cached_length(cache))) >= known.behind.shape[1]:
        return
    left = _Positions(known.behind[:, :past], _keys_at(cache, past - 1)) if past else None
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


def _known(cache: Cache | None) -> _Positions | None:
    layers = getattr(cache, "layers", None)
    return getattr(layers[0], _NAME, None) if layers else None


def _recall(cache: Cache | None, rows: int) -> _Positions | None:
    """What is known of each of the rows, wherever it has been moved to."""
    if (known := _known(cache)) is None:
        return None
    if (known.behind == known.behind[:1]).all():
        return _Positions(known.behind[:1].expand(rows, -1), None)
    found = _keys_at(cache, known.behind.shape[1] - 1)
    if known.keys is None or found is None:
        if rows == len(known.behind):
            return known
        raise InputError("the rows of this cache cannot be told apart: start with a new one")
    is_same = (found[:, None] == known.keys[None]).flatten(2).all(dim=2)
    if len(found) != rows or not is_same.any(dim=1).all():
        raise InputError("the cache has rows that it did not have when it was filled: start with a new one")
    return _Positions(known.behind[is_same.int().argmax(dim=1).to(known.behind.device)], found)


def _keys_at(cache: Cache, column: int) -> torch.Tensor | None:
    """(R, H, d): a copy of the keys of a token, in the last layer that has those of all tokens."""
    for layer in reversed(cache.layers):
        keys = getattr(layer, "keys", None)
        has_all = isinstance(keys, torch.Tensor) and keys.ndim == 4 and not getattr(layer, "is_sliding", False)
        if has_all and keys.shape[2] > column:
            return keys[:, :, column].detach().clone()
    return None
