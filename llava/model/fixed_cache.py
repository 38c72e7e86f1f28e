"""A KV cache in fixed memory, with the graphs that are bound to it: the prefill of prompts and a token's step.

Prompts are padded behind their ends, to one of a few lengths. No token attends to what comes behind it, so that the
prefill is that of unpadded prompts and needs no mask. The answer overwrites keys and values of the padding; what it has
not reached yet is masked.

Shapes: B prompts, L the longest of them, P what it is padded to, S tokens of the cache, H heads of width d.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import RLock

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from llava.model.graphs import Graphs, Recorded, plain_mode
from llava.pruning.kv_cache import CACHE
from llava.pruning.methods.fastv import run_layers

# Of `padded_length`: prompts have 64 128 ... 512 640 ... 1024 1280 tokens, and with their answers fewer lengths, since
# each has a step of its own.
PROMPT = 64, 8
WHOLE = 256, 4
MOST_CACHES = 4  # that are kept, each with its graphs
MOST_TOKENS = 8192  # B x P that are recorded; more keep a GPU busy by themselves
DECODERS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")  # that are layers between embeddings and a norm


def padded_length(length: int, least: int, parts: int) -> int:
    """The next multiple of `least`, and of one of `parts` of the next power of two."""
    step = max(least, (1 << (length - 1).bit_length()) // parts)
    return -(-length // step) * step


class _FixedLayer(DynamicLayer):
    """Keys and values (B, H, S, d) of one layer, in place."""

    def __init__(self, owner: "FixedCache", keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.owner, self.keys, self.values = owner, keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple:
        """(B, H, P, d) of a prefill come back as they are; for (B, H, 1, d) of a step, all (B, H, S, d) with them."""
        at = self.owner.at
        if at is None:
            self.keys[:, :, : key_states.shape[2]] = key_states
            self.values[:, :, : key_states.shape[2]] = value_states
            return key_states, value_states
        for whole, new in ((self.keys, key_states), (self.values, value_states)):
            whole.scatter_(2, at.view(-1, 1, 1, 1).expand_as(new), new)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """0: transformers shall not count what is counted here."""
        return 0


class FixedCache(Cache):
    """The memory of B prompts and their answers, S tokens each, lent to one call at a time.

    Attributes:
        size: S.
        at: (B,) int64: where a step writes; None in a prefill.
        logits: (B, V) float32: of the tokens that come next.
    """

    def __init__(self, model, graphs: Graphs, batch: int, size: int) -> None:
        config, weights = model.config, model.lm_head.weight
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        with plain_mode():
            new = partial(torch.zeros, batch, heads, size, width, dtype=weights.dtype, device=weights.device)
            super().__init__(layers=[_FixedLayer(self, new(), new()) for _ in range(config.num_hidden_layers)])
        self.size, self.lock, self.at, self.logits = size, RLock(), None, None
        self._decoder, self._lm_head, self._recorder = model.model, model.lm_head, graphs.recorder
        self._prefills: dict[int, Recorded] = {}
        self._step: Recorded | None = None

    def prefill(
        self,
        embeds: torch.Tensor,
        mask: torch.LongTensor,
        positions: torch.LongTensor,
        has_steps: bool,
        remember: Callable[[Cache], None] | None = None,
    ) -> None:
        """Fill the cache with prompts (B, L, D), wherever their padding is, and compute `logits`.

        Args:
            mask: (B, L), 0 where there is padding.
            positions: (B, L).
            has_steps: whether steps are to follow.
            remember: tells a copy of the cache, when it has the prompts, what it is to know of them.

        Raises NotRecordable where the language model cannot be recorded.
        """
        batch, length = mask.shape
        padded = padded_length(length, *PROMPT)
        column, lengths = torch.arange(padded, device=mask.device), (mask != 0).sum(dim=1, keepdim=True)
        in_order = (mask == 0).int().argsort(dim=1, stable=True)  # what is no padding comes first
        source = in_order.gather(1, column.minimum(lengths - 1))  # behind its end a prompt repeats its last token
        rows = torch.arange(batch, device=mask.device)
        given = embeds[rows.unsqueeze(1), source], positions.gather(1, source), lengths[:, 0] - 1
        if batch * padded > MOST_TOKENS:
            with self._recorder.turn():
                self.logits = self._run_prefill(*given)
        else:
            if padded not in self._prefills:
                self._prefills[padded] = Recorded(self._recorder, self._run_prefill, given)
            self.logits = self._prefills[padded](*given)
        self._next, self._position = lengths[:, 0], given[1][:, -1:] + 1
        self._lengths, self._length, self._remember = lengths, length, remember
        if has_steps and self._step is None:
            first = self.logits.argmax(dim=1, keepdim=True), self._next, self._position
            self._step = Recorded(self._recorder, self._run_step, first, is_step=True)

    def as_dynamic(self, new: int) -> DynamicCache:
        """A copy as transformers has it after `new` tokens: prompts padded on the left, and the last token missing."""
        length, shift = self._length, self._length - self._lengths
        places = torch.arange(length + new - 1, device=shift.device)
        source = (places - shift).clamp(min=0)[:, None, :, None]
        cache = DynamicCache(config=self._decoder.config)
        for part in (slice(length), slice(length, None)):
            for i, layer in enumerate(self.layers):
                wholes = layer.keys, layer.values
                own = source[:, :, part].expand(-1, wholes[0].shape[1], -1, wholes[0].shape[3])
                cache.update(*(whole.gather(2, own) for whole in wholes), i)
            if part.stop and self._remember is not None:
                self._remember(cache)
        return cache

    def step(self, token: torch.LongTensor) -> None:
        """Add a token (B,) to each answer, and compute `logits` anew."""
        self.logits = self._step(token.unsqueeze(1), self._next, self._position)
        self._next, self._position = self._next + 1, self._position + 1

    def _run_prefill(self, embeds: torch.Tensor, positions: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        self.at = None
        column, rows = (torch.arange(number, device=embeds.device) for number in (embeds.shape[1], len(embeds)))
        mask = self._mask((column <= column.unsqueeze(1))[None, None]) if self._is_eager else None
        return self._lm_head(self._decode(embeds, positions, mask)[rows, last]).float()

    def _run_step(self, token: torch.Tensor, at: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        self.at = at
        seen = (torch.arange(self.size, device=at.device) <= at.unsqueeze(1))[:, None, None]
        states = self._decode(self._decoder.embed_tokens(token), position, self._mask(seen))
        return self._lm_head(states)[:, -1].float()

    @property
    def _is_eager(self) -> bool:
        return self._decoder.config._attn_implementation == "eager"

    def _mask(self, seen: torch.BoolTensor) -> torch.Tensor:
        """The mask in the form that the attention kernel takes."""
        if not self._is_eager:
            return seen
        dtype = self._lm_head.weight.dtype
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)

    def _decode(self, embeds: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The decoder's states. Not by its own `forward`, which makes a mask while a graph is captured."""
        decoder, options = self._decoder, {CACHE: self, "use_cache": True}
        return decoder.norm(run_layers(decoder, options, decoder.layers, embeds, mask, positions))


@contextmanager
def lend(model, graphs: Graphs, batch: int, length: int, new: int) -> Iterator[FixedCache]:
    """A cache for `batch` prompts of at most `length` tokens each and answers of `new`; other calls wait for it."""
    key = batch, padded_length(padded_length(length, *PROMPT) + new, *WHOLE)
    with graphs.recorder.lock:
        cache = graphs.caches.pop(key, None) or FixedCache(model, graphs, *key)
        graphs.caches[key] = cache
        if len(graphs.caches) > MOST_CACHES:
            graphs.caches.popitem(last=False)
            gc.collect()  # cache and graphs hold one another
    with cache.lock:
        yield cache
