"""What transformers calls a KV cache, up to release 5.23 `past_key_values`, later `cache`; and what goes with it."""

import inspect

import torch
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


def as_one_sequence(past: int, length: int, device: torch.device) -> dict:
    """Arguments of a language model by which one prompt, of `length` tokens after `past` cached ones, is one sequence.

    FlashAttention, in transformers, would take gaps between its positions for sequences that are packed together.
    """
    queries, keys = (torch.tensor([0, end], dtype=torch.int32, device=device) for end in (length, past + length))
    lengths = {"max_length_q": length, "max_length_k": past + length}
    return {"cu_seq_lens_q": queries, "cu_seq_lens_k": keys, **lengths}
