"""An answer from a `FixedCache`, token by token, as transformers' `_sample` gives it; and what goes transformers' way.

A step is launched before the host has seen the token that it begins with: stopping criteria are asked while the GPU
works, about ids on the host. So an answer computes at most one step too many, whose logits nobody reads.

Shapes: B prompts, L the longest of them, D model channels, n new tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from transformers import Cache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput

from llava.model.fixed_cache import DECODERS, FixedCache, lend
from llava.model.gaps import remember_positions
from llava.model.graphs import NotRecordable
from llava.pruning import Settings

# Generation options that go transformers' way unless they have one of these values.
_PLAIN = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "use_cache": (None, True),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "assistant_early_exit": (None,),
    "assistant_model": (None,),
    "cache_implementation": (None,),
    "compile_config": (None,),
    "custom_generate": (None,),
    "disable_compile": (None, False),
    "dola_layers": (None,),
    "max_length": (None,),
    "penalty_alpha": (None, 0),
    "prompt_lookup_num_tokens": (None,),
    "synced_gpus": (None, False),
    "token_healing": (None, False),
}


@dataclass(frozen=True)
class Prompts:
    """Embeddings (B, L, D), mask (B, L), and positions (B, L) or None for one after another.

    `is_visual` (B, L) says where the visual tokens are, of prompts whose positions have gaps; else it is None.
    """

    embeds: torch.Tensor
    mask: torch.LongTensor
    positions: torch.LongTensor | None
    is_visual: torch.BoolTensor | None

    def prefill(self, cache: FixedCache, has_steps: bool) -> None:
        """As `FixedCache.prefill`."""
        positions, remember = self.positions, None
        if positions is None:
            positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        if self.is_visual is not None:
            remember = partial(remember_positions, positions=positions, mask=self.mask, is_visual=self.is_visual)
        cache.prefill(self.embeds, self.mask, positions, has_steps, remember)


@contextmanager
def begun(
    model, prompts: Prompts, options: dict, pruning: Settings, own: Cache | None, new: int, room: int
) -> Iterator[FixedCache | None]:
    """A cache that has the prompts; None, with a warning that says why, where their answer has to go transformers' way.

    The prefill is launched before transformers prepares the answer. The other arguments are those of `_hindrance`.
    """
    graphs, (batch, length) = model.graphs, prompts.mask.shape
    why = _hindrance(model, options, pruning, own, length + new)
    if why is None and new > room:
        why = f"max_new_tokens {new} beyond the context"
    if why is None:
        with lend(model, graphs, batch, length, new) as cache:
            try:
                prompts.prefill(cache, new > 1)
            except NotRecordable as error:
                why = str(error)
            else:
                yield cache
                return
    graphs.say(f"answers run uncompiled: {why}")
    yield None


def _hindrance(model, options: dict, pruning: Settings, own: Cache | None, length: int) -> str | None:
    """Why an answer cannot come from recorded steps; None where it can.

    Args:
        options: all generation options of the call.
        own: the call's own cache.
        length: tokens of the longest prompt and its answer.
    """
    if own is not None:
        return "a KV cache that goes on from earlier tokens"
    if pruning.prunes_in_decoder:
        return f"{pruning.pruning_method} drops tokens inside the language model"
    odd = next((name for name, plain in _PLAIN.items() if options.get(name) not in plain), None)
    if odd is not None:
        return f"the option {odd}"
    config = model.config
    if model.training or getattr(config, "quantization_config", None) is not None:
        return "a model that is being trained" if model.training else "quantized weights"
    places = set(map(str, (getattr(model, "hf_device_map", None) or {}).values()))
    if len(places) > 1:
        return f"layers on {', '.join(sorted(places))}"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"the attention kernel {config._attn_implementation}"
    if not any(parent.__name__ in DECODERS for parent in type(model.model).__mro__):
        return f"the decoder of {type(model).__name__}"
    window = getattr(config, "sliding_window", None)
    if window is not None and length > window:
        return f"a window of {window} tokens"
    return None


def sample(
    cache: FixedCache,
    ids: torch.LongTensor,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    config: GenerationConfig,
    streamer=None,
) -> torch.LongTensor | GenerateDecoderOnlyOutput:
    """Go on from prompts that the cache has: (B, n) int64, or transformers' output with them.

    The arguments are those that transformers' `generate` gives its `_sample`: ids (B, 0), and what was made of the
    options of the call.
    """
    keeps = config.return_dict_in_generate
    pad, most = config._pad_token_tensor, criteria.max_length
    has_ends = any(hasattr(own, "eos_token_id") for own in criteria)
    is_known = all(type(own).__module__.startswith(("transformers.", "llava.")) for own in criteria)
    kept: dict[str, list] = {"scores": [], "logits": []}
    host = _Host(ids)
    going = torch.ones(len(ids), dtype=torch.bool)
    while True:
        logits = cache.logits
        scores = processors(ids, logits.clone() if processors else logits)
        for name, own in (("scores", scores), ("logits", logits)):
            if keeps and getattr(config, f"output_{name}"):
                kept[name].append(own)
        if config.do_sample:
            token = torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)
        else:
            token = scores.argmax(dim=-1)
        if has_ends and not going.all():
            token = token.where(going.to(token.device, non_blocking=True), pad.to(token.device))
        ids = torch.cat([ids, token.unsqueeze(1)], dim=1)
        host.fetch(token)
        if ids.shape[1] < most:
            cache.step(token)
        host.add()
        if streamer is not None:
            streamer.put(host.ids[:, -1])
        seen = tuple(kept["scores"]) if keeps and config.output_scores else None
        going &= ~criteria(host.ids if is_known else ids, seen).to(going)
        if not going.any():
            break
    if streamer is not None:
        streamer.end()
    if not keeps:
        return ids
    made = {name: tuple(own) if getattr(config, f"output_{name}") else None for name, own in kept.items()}
    return GenerateDecoderOnlyOutput(sequences=ids, past_key_values=cache.as_dynamic(ids.shape[1]), **made)


class _Host:
    """`ids` (B, n) of an answer on the host, where they come without waiting for what was launched after them."""

    def __init__(self, ids: torch.LongTensor) -> None:
        self.ids = ids.cpu()
        self._token = torch.empty(len(ids), dtype=torch.long, pin_memory=ids.is_cuda)
        self._is_there: torch.cuda.Event | None = None

    def fetch(self, token: torch.LongTensor) -> None:
        """Begin to bring (B,) ids here."""
        self._token.copy_(token, non_blocking=True)
        if token.is_cuda:
            self._is_there = torch.cuda.current_stream(token.device).record_event()

    def add(self) -> None:
        """Wait for these ids, and add them."""
        if self._is_there is not None:
            self._is_there.synchronize()
        self.ids = torch.cat([self.ids, self._token.unsqueeze(1)], dim=1)
