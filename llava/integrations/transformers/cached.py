"""What a KV cache holds of the prompts that a pruned model was given, kept where it goes with the rows.

A `Memory` hangs on the cache's first layer: copies, files and other caches with that layer have it too. It ends with
the last visual token; text may follow it and be cut off again. Its rows are known by the keys that the cache has there,
so that each row finds its own part, however rows were repeated, chosen or reordered.

Shapes: B prompts, L tokens of the longest as the processor wrote it, P tokens in the cache, R rows of the cache.
"""

from dataclasses import dataclass, replace

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from llava.errors import InputError
from llava.pruning.kv_cache import CACHE, cached_length, keys_at

_NAME = "_pruned_prompts"  # of a cache's first layer


@dataclass(frozen=True)
class Cached:
    """What is in a cache.

    Attributes:
        columns: (B, P) int64: which token of the prompts each cached token is, -1 for padding.
        length: L, of the prompts as the processor wrote them.
        position: (B, 1) int64: of the token that follows; with M-RoPE as `get_rope_index` counts.
        is_known: whether a pruned model filled it.
    """

    columns: torch.LongTensor
    length: int
    position: torch.LongTensor
    is_known: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether nothing is dropped, and padding is where it was."""
        return self.columns.shape[1] == self.length

    def take(self, values: torch.Tensor, padding: int) -> torch.Tensor:
        """(B, P) of values (B, L or more) of the prompts as they were written; `padding` where there is none."""
        return take(values, self.columns, padding)

    def rows(self, index: torch.LongTensor) -> "Cached":
        """The same of some prompts, `index` (B',)."""
        return replace(self, columns=self.columns[index], position=self.position[index])

    def is_same(self) -> torch.BoolTensor:
        """(B, B): which prompts do not differ in anything here."""
        values = torch.cat([self.columns, self.position], dim=1)
        return (values[:, None] == values[None]).all(dim=2)


@dataclass(frozen=True)
class Memory:
    """What is in a cache up to the last visual token.

    Attributes:
        cached: that.
        keys: (B, H, d) of the last of its tokens, in a layer that has all; None where no layer has.
    """

    cached: Cached
    keys: torch.Tensor | None = None

    @classmethod
    def unknown(cls, ids: torch.LongTensor, first: int = 0) -> "Memory":
        """Of a cache before `ids` (B, L) that no pruned model filled, and so has all that was said so far.

        `first` is the position of a prompt's first token.
        """
        return cls(Cached(ids[:, :0], 0, ids.new_full((len(ids), 1), first), is_known=False))

    def rows(self, index: torch.LongTensor) -> "Memory":
        """The same of some prompts, `index` (B',)."""
        keys = None if self.keys is None else self.keys[index.to(self.keys.device)]
        return replace(self, cached=self.cached.rows(index), keys=keys)

    def up_to(self, past: int, mask: torch.Tensor | None = None) -> Cached:
        """What is in the cache when it has `past` tokens, with the text after the visual tokens.

        Args:
            mask: (B, L or more), 0 for tokens that have no position; or None: all have.
        """
        own, more = self.cached, past - self.cached.columns.shape[1]
        added = torch.arange(own.length, own.length + more, device=own.columns.device)
        columns = torch.cat([own.columns, added.expand(len(own.columns), -1)], dim=1)
        counted = more if mask is None else mask[:, own.length : own.length + more].long().sum(dim=1, keepdim=True)
        return replace(own, columns=columns, length=own.length + more, position=own.position + counted)


def remember(cache: Cache, memory: Memory | None) -> None:
    """Let a cache know what is in it, now that it is in it; of each prompt the cache may have several rows."""
    if memory is not None and (keys := keys_at(cache, memory.cached.columns.shape[1] - 1)) is not None:
        prompts = len(memory.cached.columns)
        index = torch.arange(prompts, device=memory.cached.columns.device).repeat_interleave(len(keys) // prompts)
        memory = replace(memory.rows(index), keys=keys)
    setattr(cache.layers[0], _NAME, memory)


def recall(cache: Cache | None, prompts: int, several: bool = False) -> Memory | None:
    """What a cache holds of each of some prompts; None if it is empty, or no pruned model filled it.

    Args:
        several: whether the cache may have several rows of each prompt.

    Raises InputError if the cache was cut inside a picture, or its rows are not those of prompts that are known.
    """
    layers = getattr(cache, "layers", None)
    memory, past = getattr(layers[0], _NAME, None) if layers else None, int(cached_length(cache))
    if memory is None or not past:
        return None
    if past < memory.cached.columns.shape[1]:
        raise InputError("the cache was cut inside its pruned prompt: start with a new one")
    is_same, keys = memory.cached.is_same(), keys_at(cache, memory.cached.columns.shape[1] - 1)
    if keys is None or memory.keys is None:  # nothing to know rows by
        if not is_same.all():
            raise InputError("the rows of this cache cannot be told apart: start with a new one")
        return memory.rows(torch.zeros(prompts, dtype=torch.long, device=is_same.device))
    of_row = (keys[:, None] == memory.keys.to(keys)[None]).flatten(2).all(dim=2).to(is_same.device)
    if not of_row.any(dim=1).all():
        raise InputError("the cache has rows that it did not have when it was filled: start with a new one")
    index = of_row.int().argmax(dim=1)
    if len(index) == len(is_same):
        own = torch.arange(len(index), device=index.device)
        index = torch.where(of_row.diagonal(), own, index)
    if len(index) != prompts and not (several and len(index) % prompts == 0):
        raise InputError(f"the cache has {len(index)} row(s) for {prompts} prompt(s)")
    if (of_row & ~is_same[index]).any() and not (len(index) == len(is_same) and of_row.diagonal().all()):
        raise InputError("rows of the cache that were moved cannot be told apart: start with a new one")
    index = index.view(prompts, -1)
    if not is_same[index[:, :1], index].all():
        raise InputError(f"the cache has rows of different prompts for one of the {prompts} prompt(s)")
    return memory.rows(index[:, 0])


@torch.no_grad()
def has_all_tokens(cache: Cache, decoder: PreTrainedModel, ids: torch.LongTensor, is_text: torch.BoolTensor) -> bool:
    """Whether a cache that no pruned model filled has a token for each of `ids` (B, P), and not fewer.

    The first layer's keys follow from a token and its position, and a rotation by that keeps the length of pairs of
    channels: of two halves of them, or of neighbours. So the last words after the visual tokens are compared, wherever
    they may stand.
    """
    start = int((~is_text).any(dim=0).nonzero().amax()) + 1 if not is_text.all() else 0
    start = max(start, ids.shape[1] - 4)
    keys, fresh = getattr(cache.layers[0], "keys", None), DynamicCache()
    if start == ids.shape[1] or not isinstance(keys, torch.Tensor) or keys.ndim != 4:
        return False
    decoder(input_ids=ids[:, start:], use_cache=True, **{CACHE: fresh})
    expected, found = fresh.layers[0].keys, keys[:, :, : ids.shape[1]][:, :, start - ids.shape[1] :]
    found = found[:: max(1, len(found) // len(ids))].to(expected)
    return found.shape == expected.shape and any(
        torch.allclose(*pairs, rtol=0.05, atol=0.02 * float(pairs[0].max()))
        for shape, axis in (((2, -1), -2), ((-1, 2), -1))
        for pairs in [[keys.float().unflatten(-1, shape).norm(dim=axis) for keys in (expected, found)]]
    )


def keeps_states(cache: Cache | None) -> bool:
    """Whether there are layers that keep a state of what they have read, which padding would change."""
    return any(hasattr(layer, "conv_states") for layer in getattr(cache, "layers", ()))


def take(values: torch.Tensor, columns: torch.LongTensor, padding: int) -> torch.Tensor:
    """Values (B, L) at `columns` (B, S); `padding` where a column is -1."""
    return values.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, padding)
