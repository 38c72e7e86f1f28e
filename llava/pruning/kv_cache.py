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


def cache_of(output) -> Cache | None:
    """The cache that a call has made, among its output; None if it has made none."""
    values = output if isinstance(output, tuple) else output.values() if isinstance(output, dict) else ()
    return next((value for value in values if isinstance(value, Cache)), None)


def keys_at(cache: Cache, column: int) -> torch.Tensor | None:
    """(R, H, d): a copy of the keys of a token, in the last layer that has those of all tokens; None if none has.

    Rows of a cache are known by them, wherever they are moved to.
    """
    for layer in reversed(cache.layers) if column >= 0 else ():
        keys = getattr(layer, "keys", None)
        has_all = isinstance(keys, torch.Tensor) and keys.ndim == 4 and not getattr(layer, "is_sliding", False)
        if has_all and keys.shape[2] >= max(column + 1, int(layer.get_seq_length())):
            return keys[:, :, column].detach().clone()
    return None


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
