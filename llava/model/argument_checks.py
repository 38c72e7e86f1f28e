"""Extra arguments of clients written for LLaVA-NeXT and for older transformers: taken, or refused by name."""

import torch

from llava.errors import InputError


def check_modalities(modalities: str | list[str] | None) -> None:
    """Raise InputError unless all of LLaVA-NeXT's `modalities` are "image"."""
    given = [modalities] if isinstance(modalities, str) else modalities or ()
    for modality in given:
        if modality != "image":
            raise InputError(f"modalities: this model takes 'image' alone, not {modality!r}")


def check_attentions(wanted: bool | None, config) -> None:
    """Raise InputError where attention maps are `wanted` of a kernel that never has them."""
    wanted = getattr(config, "output_attentions", False) if wanted is None else wanted
    if wanted and config._attn_implementation != "eager":
        raise InputError(
            f"output_attentions needs attn_implementation='eager': {config._attn_implementation} computes no map"
        )


def check_embeds(ids, inputs_embeds: torch.Tensor | None, images, attention_mask: torch.Tensor | None) -> None:
    """Raise InputError unless `generate` is given either ids or embeddings that are complete and padded on the left."""
    if (ids is None) == (inputs_embeds is None):
        raise InputError("generate takes either token ids (`inputs`) or `inputs_embeds`")
    if inputs_embeds is None:
        return
    if images is not None:
        raise InputError("images go with input_ids: inputs_embeds have their visual tokens in place already")
    if attention_mask is not None and attention_mask.shape != inputs_embeds.shape[:2]:
        raise InputError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, the embeddings {tuple(inputs_embeds.shape)}"
        )
    if attention_mask is not None and not attention_mask[:, -1].all():
        raise InputError("inputs_embeds must be padded on the left")
