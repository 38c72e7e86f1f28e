"""FastV: visual tokens that the prompt's last token attends to least are dropped inside the language model.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large Vision-
Language Models", ECCV 2024, arXiv 2403.06764. Visual token i is ranked by the mean over heads of softmax(q K^T /
sqrt(d))_i in layer K - 1, q being the last prompt token's query. Of that attention one row is computed, so that every
layer can use any kernel.

Shapes: B prompts, L their tokens, L' those that are left, D channels.
"""

import torch
from transformers import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from llava.utils import InputError

FULL_LAYERS = 2  # K: these see all visual tokens


def prune_decoder(
    decoder,
    inputs_embeds: torch.Tensor,
    *,
    visual_mask: torch.BoolTensor,
    visual_share: float,
    attention_mask: torch.LongTensor | None = None,
    position_ids: torch.LongTensor | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool | None = None,
    **kwargs,
) -> BaseModelOutputWithPast:
    """A decoder's forward with FastV: the whole prompt, or a step of generation after it.

    Tokens keep their positions. The caches of the first K layers hold all tokens, the others those that are left, and
    the cache remembers which of these are padding.

    Args:
        decoder: a LlamaModel, MistralModel or Qwen2Model.
        inputs_embeds: (B, L, D) of the prompts, or (B, new, D).
        visual_mask: (B, L) bool, where the prompts' visual tokens are.
        visual_share: share of each prompt's visual tokens to keep, T / N.
        attention_mask: (B, everything so far), 0 where there is padding; None where there is none.
        position_ids: (B, L) or (B, new); None for one after another.
        past_key_values: the cache, empty at the prompt; None for a new one.

    Returns: hidden states (B, L' or new, D) and the cache. The prompt's last token is in the last place.
    Raises: InputError for a decoder of at most K layers, or tokens beyond a sliding window.
    """
    if decoder.config.num_hidden_layers <= FULL_LAYERS:
        raise InputError(f"fastv needs more than {FULL_LAYERS} decoder layers")
    if past_key_values is None and (decoder.config.use_cache if use_cache is None else use_cache):
        past_key_values = DynamicCache(config=decoder.config)
    hidden = inputs_embeds
    seen = 0 if past_key_values is None else past_key_values.get_seq_length()
    if attention_mask is None:
        attention_mask = torch.ones(len(hidden), seen + hidden.shape[1], dtype=torch.long, device=hidden.device)
    window = getattr(decoder.config, "sliding_window", None)
    if window is not None and attention_mask.shape[1] > window:
        raise InputError(f"fastv knows no sliding window: {attention_mask.shape[1]} tokens, the window has {window}")
    if position_ids is None:
        position_ids = torch.arange(seen, seen + hidden.shape[1], device=hidden.device).unsqueeze(0)
    mask = create_causal_mask(
        decoder.config, inputs_embeds=hidden, attention_mask=attention_mask, past_key_values=past_key_values
    )

    def run(layers, hidden, mask, position_ids) -> torch.Tensor:
        options = {"past_key_values": past_key_values, "attention_mask": mask, "position_ids": position_ids}
        options["position_embeddings"] = decoder.rotary_emb(hidden, position_ids)
        for layer in layers:
            hidden = layer(hidden, **options, **kwargs)
        return hidden

    hidden = run(decoder.layers[: FULL_LAYERS - 1], hidden, mask, position_ids)
    ranking = decoder.layers[FULL_LAYERS - 1]
    ranked_by, hidden = hidden, run([ranking], hidden, mask, position_ids)
    if seen == 0:
        attention = last_row(ranking, ranked_by, decoder.rotary_emb(ranked_by, position_ids), attention_mask)
        left, left_mask = choose(attention, visual_mask, attention_mask.bool(), visual_share)
        hidden = hidden.gather(1, left.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        position_ids = position_ids.expand(len(hidden), -1).gather(1, left)
        mask = create_causal_mask(decoder.config, inputs_embeds=hidden, attention_mask=left_mask, past_key_values=None)
        if past_key_values is not None:
            past_key_values.pruned_mask = left_mask
    else:
        new = attention_mask.shape[1] - visual_mask.shape[1]
        left_mask = torch.cat([past_key_values.pruned_mask, attention_mask[:, -new:]], dim=1)
        mask = step_mask(decoder.config._attn_implementation, left_mask, hidden)
    hidden = run(decoder.layers[FULL_LAYERS:], hidden, mask, position_ids)
    return BaseModelOutputWithPast(last_hidden_state=decoder.norm(hidden), past_key_values=past_key_values)


def last_row(
    layer, layer_input: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], attention_mask: torch.Tensor
) -> torch.Tensor:
    """Attention (B, L) float32 of each prompt's last token in a layer with this input (B, L, D), mean over heads."""
    attention, places = layer.self_attn, torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask * places).argmax(dim=1)
    normed = layer.input_layernorm(layer_input)
    row = torch.arange(len(last), device=last.device)
    query, keys = attention.q_proj(normed[row, last].unsqueeze(1)), attention.k_proj(normed)
    query, keys = (x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for x in (query, keys))
    cos, sin = (part.expand(len(row), -1, -1) for part in rotary)
    query, _ = apply_rotary_pos_emb(query, query, cos[row, last].unsqueeze(1), sin[row, last].unsqueeze(1))
    keys, _ = apply_rotary_pos_emb(keys, keys, cos, sin)
    scores = (query @ repeat_kv(keys, attention.num_key_value_groups).transpose(2, 3)) * attention.scaling
    scores = scores.float().masked_fill(attention_mask[:, None, None, :] == 0, -torch.inf)
    return scores.softmax(dim=-1).mean(dim=1)[:, 0]


def choose(
    attention: torch.Tensor, visual_mask: torch.BoolTensor, attention_mask: torch.BoolTensor, visual_share: float
) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Places (B, L') of the tokens that are left, padded on the left, and their mask.

    All text stays, and of each prompt's visual tokens round(share * number) with the highest attention, in order.
    """
    numbers = (visual_mask.sum(dim=1) * visual_share).round().long().unsqueeze(1)
    by_attention = attention.masked_fill(~visual_mask, -1).argsort(dim=1, descending=True, stable=True)
    rank = by_attention.argsort(dim=1)
    left = attention_mask & (~visual_mask | (rank < numbers))
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
