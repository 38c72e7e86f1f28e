"""What transformers calls a KV cache: releases up to 5.23 `past_key_values`, later ones `cache`."""

import inspect

from transformers import Cache, LlamaModel

NAMES = ("cache", "past_key_values")
CACHE = NAMES[0] if NAMES[0] in inspect.signature(LlamaModel.forward).parameters else NAMES[1]


def cache_in(values: dict) -> Cache | None:
    """The cache among arguments or outputs, under either of its names."""
    return next((values[name] for name in NAMES if values.get(name) is not None), None)


def cached_length(cache: Cache | None) -> int:
    """How many tokens a cache has, before those of this call; 0 without one."""
    return 0 if cache is None else cache.get_seq_length()


def take_cache(options: dict) -> Cache | None:
    """Remove the cache from keyword arguments, under either of its names, and return it."""
    found = cache_in(options)
    for name in NAMES:
        options.pop(name, None)
    return found
