"""FastV: visual tokens that the prompt's last token attends to least are dropped inside the language model.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large Vision-
Language Models", ECCV 2024, arXiv 2403.06764. Visual token i is ranked by the mean over heads of softmax(q K^T /
sqrt(d))_i in layer K - 1, q being the last prompt token's query. Of that attention one row is computed, so that every
layer can use any kernel.

Shapes: B prompts, L their tokens, L' those that are left, D channels.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from transformers import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from llava.pruning.errors import PruningError
from llava.pruning.kv_cache import CACHE, cached_length
from llava.pruning.method import Method


@dataclass(frozen=True)
class FastV(Method):
    """`full_layers`, K, is how many layers see all visual tokens."""

    full_layers: int = 2
    name: ClassVar[str] = "fastv"
    in_decoder = True

    def left(
        self,
        decoder,
        layer_input: torch.Tensor,
        layer_output: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        is_visual: torch.BoolTensor,
        attention_mask: torch.LongTensor,
        visual_share: float,
    ) -> tuple[torch.LongTensor, torch.LongTensor]:
        """What is left after layer K - 1, as `places_of` returns it, by its input and output (B, L, D)."""
        attention = last_row(decoder.layers[self.full_layers - 1], layer_input, rotary, attention_mask)
        return choose(attention, is_visual, attention_mask.bool(), visual_share)

    def prune_decoder(
        self,
        decoder,
        inputs_embeds: torch.Tensor,
        *,
        is_visual: torch.BoolTensor | None,
        visual_share: float,
        attention_mask: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """A decoder's forward that drops visual tokens: the whole prompt, or a step of generation after it.

        Tokens keep their positions. The caches of the first K layers hold all tokens, the others those that are left,
        and the cache remembers which of these are padding.

        Args:
            decoder: a LlamaModel, MistralModel or Qwen2Model.
            inputs_embeds: (B, L, D) of the prompts, or (B, new, D).
            is_visual: (B, L) bool, where the prompts' visual tokens are; not read in a step of generation.
            visual_share: share of each prompt's visual tokens to keep, T / N.
            attention_mask: (B, everything so far), 0 where there is padding; None where there is none.
            position_ids: (B, L) or (B, new); None for one after another.
            kwargs: `cache` (`past_key_values` before transformers 5.24), empty at the prompt, None for a new one; the
                rest goes to the layers.

        Returns: hidden states (B, L' or new, D) and the cache. The prompt's last token is in the last place.
        Raises: PruningError for a decoder of at most K layers, tokens beyond a sliding window, and outputs of layers.
        """
        full_layers, cache = self.full_layers, self._check(decoder, kwargs)
        if cache is None and (decoder.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=decoder.config)
        hidden = inputs_embeds
        past = cached_length(cache)
        if attention_mask is None:
            attention_mask = torch.ones(len(hidden), past + hidden.shape[1], dtype=torch.long, device=hidden.device)
        self._check_window(decoder.config, attention_mask.shape[1])
        if position_ids is None:
            position_ids = torch.arange(past, past + hidden.shape[1], device=hidden.device).unsqueeze(0)
        mask = create_causal_mask(decoder.config, inputs_embeds=hidden, attention_mask=attention_mask, **{CACHE: cache})
        run = partial(run_layers, decoder, {CACHE: cache, **kwargs})
        ranked_by = run(decoder.layers[: full_layers - 1], hidden, mask, position_ids)
        hidden = run([decoder.layers[full_layers - 1]], ranked_by, mask, position_ids)
        if past == 0:
            rotary = decoder.rotary_emb(ranked_by, position_ids)
            seen = decoder, ranked_by, hidden, rotary
            left, left_mask = self.left(*seen, is_visual, attention_mask, visual_share)
            hidden = hidden.gather(1, left.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
            position_ids = position_ids.expand(len(hidden), -1).gather(1, left)
            mask = create_causal_mask(decoder.config, inputs_embeds=hidden, attention_mask=left_mask, **{CACHE: None})
            if cache is not None:
                cache.pruned_mask, cache.prompt_length, cache.left = left_mask, is_visual.shape[1], left
        else:
            new = attention_mask.shape[1] - cache.prompt_length
            left_mask = torch.cat([cache.pruned_mask, attention_mask[:, -new:]], dim=1)
            mask = step_mask(decoder.config._attn_implementation, left_mask, hidden)
        hidden = run(decoder.layers[full_layers:], hidden, mask, position_ids)
        return BaseModelOutputWithPast(last_hidden_state=decoder.norm(hidden), **{CACHE: cache})

    def _check(self, decoder, kwargs: dict) -> Cache | None:
        """Take the cache out of `kwargs`. Raises PruningError for what this decoder or call cannot do."""
        if decoder.config.num_hidden_layers <= self.full_layers:
            raise PruningError(f"{self.name} needs more than {self.full_layers} decoder layers")
        cache = kwargs.pop(CACHE, None)
        if cache is not None and cache.get_seq_length() > 0 and not is_pruned(cache):
            raise PruningError(f"{self.name} cannot go on from a cache that another method has filled")
        return cache

    def _check_window(self, config, length: int) -> None:
        window = getattr(config, "sliding_window", None)
        if window is not None and length > window:
            raise PruningError(f"{self.name} knows no sliding window: {length} tokens, the window has {window}")


METHOD = FastV()


def run_layers(
    decoder, options: dict, layers, hidden: torch.Tensor, mask: torch.Tensor | None, position_ids: torch.LongTensor
) -> torch.Tensor:
    """The output (B, L, D) of consecutive layers for `hidden` (B, L, D)."""
    rotary = decoder.rotary_emb(hidden, position_ids)
    for layer in layers:
        hidden = layer(hidden, attention_mask=mask, position_ids=position_ids, position_embeddings=rotary, **options)
    return hidden


def is_pruned(cache: Cache | None) -> bool:
    """Whether the cache comes from a prompt that `prune_decoder` has seen."""
    return hasattr(cache, "pruned_mask")


def last_row(
    layer, layer_input: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], attention_mask: torch.Tensor
) -> torch.Tensor:
    """Attention (B, L) float32 of each prompt's last token in a layer with this input (B, L, D), mean over heads."""
    attention, places = layer.self_attn, torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask * places).argmax(dim=1)
    normed = layer.input_layernorm(layer_input)
    row = torch.arange(len(last), device=last.device)
    query = attention.q_proj(normed[row, last].unsqueeze(1))
    query = query.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    cos, sin = (part.expand(len(row), -1, -1) for part in rotary)
    query, _ = apply_rotary_pos_emb(query, query, cos[row, last].unsqueeze(1), sin[row, last].unsqueeze(1))
    keys = keys_of(attention, normed, rotary)
    scores = (query @ repeat_kv(keys, attention.num_key_value_groups).transpose(2, 3)) * attention.scaling
    scores = scores.float().masked_fill(attention_mask[:, None, None, :] == 0, -torch.inf)
    return scores.softmax(dim=-1).mean(dim=1)[:, 0]


def keys_of(attention, normed: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Keys (B, key heads, L, head width) after rotary positions of a layer's attention for its normed input."""
    keys = attention.k_proj(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    cos, sin = (part.expand(len(keys), -1, -1) for part in rotary)
    return apply_rotary_pos_emb(keys, keys, cos, sin)[0]


def choose(
    attention: torch.Tensor, is_visual: torch.BoolTensor, attention_mask: torch.BoolTensor, visual_share: float
) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Places of all text, and of round(share * number) of a prompt's visual tokens, those with the highest attention.

    Attention and masks are (B, L); returns as `places_of`.
    """
    numbers = (is_visual.sum(dim=1) * visual_share).round().long().unsqueeze(1)
    by_attention = attention.masked_fill(~is_visual, -1).argsort(dim=1, descending=True, stable=True)
    rank = by_attention.argsort(dim=1)
    return places_of(attention_mask & (~is_visual | (rank < numbers)))


def places_of(left: torch.BoolTensor) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Places (B, L') of the tokens that are left (B, L), in order and padded on the left, and their mask."""
    longest = int(left.sum(dim=1).max())
    places = left.long().argsort(dim=1, stable=True)[:, -longest:]  # what is dropped comes first: padding now
    return places, left.gather(1, places).long()


def step_mask(implementation: str, mask: torch.LongTensor, hidden: torch.Tensor) -> torch.Tensor | None:
    """The mask of one new token's attention to (B, keys), in the form that the attention kernel takes."""
    if bool(mask.all()):
        return None
    if implementation.startswith("flash"):
        return mask
    allowed = mask.bool()[:, None, None, :]
    if implementation == "sdpa":
        return allowed
    return torch.zeros_like(allowed, dtype=hidden.dtype).masked_fill(~allowed, torch.finfo(hidden.dtype).min)
