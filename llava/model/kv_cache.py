"""KV caches: one whose memory is used again, so that a compiled step can be, and one with room for what follows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import DynamicCache, PreTrainedConfig, StaticCache
from transformers.cache_utils import DynamicLayer

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

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, with room behind them: what follows is then added without a second copy."""
        if (length := self.get_seq_length()) == 0:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            whole = old.new_empty(len(indices), old.shape[1], length + ROOM, old.shape[3])
            used = whole[:, :, :length]
            torch.index_select(old, 0, indices, out=used)
            self._with_room[name] = whole, used
            setattr(self, name, used)

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
