"""A KV cache whose memory is used again, so that a compiled step can be."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedConfig, StaticCache

STEP = 256  # tokens: prompts that differ little in length share a cache, hence a CUDA graph


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
