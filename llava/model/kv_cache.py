"""The KV cache: its name in transformers, and one whose memory is used again so that a compiled step can be."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import Cache, LlamaModel, PreTrainedConfig, StaticCache
from transformers.utils import ModelOutput

# transformers 5.24 renamed the argument and the output of every model.
CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
STEP = 256  # tokens: prompts that differ little in length share a cache, hence a CUDA graph


def cache_of(output: ModelOutput) -> Cache | None:
    """The cache that a model returned."""
    return output.get(CACHE)


def take_cache(options: dict) -> Cache | None:
    """Remove a cache from keyword arguments, under either of its names."""
    old, new = options.pop("past_key_values", None), options.pop("cache", None)
    return old if new is None else new


class ReusedCache:
    """A static cache, lent out again while its size fits: CUDA graphs are bound to its memory."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config
        self._free: list[tuple[tuple, StaticCache]] = []  # one at most, none while it is lent

    @contextmanager
    def lend(self, batch: int, length: int) -> Iterator[StaticCache]:
        """An empty cache for `batch` prompts with at least `length` tokens each, answers included.

        Who asks while it is lent, in another thread, gets one of their own.
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
    """Whether generation with these options will not have to reorder its cache, as beams do."""
    return options.get("max_length") is None and (options.get("num_beams") or 1) == 1
