"""Images into prompts: which tokens are prompt, and each image token replaced by its image's visual tokens."""

import logging
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from transformers import GenerationConfig

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX

logger = logging.getLogger(__name__)


def text_mask(
    input_ids: torch.LongTensor, attention_mask: torch.Tensor | None, config: GenerationConfig
) -> torch.BoolTensor:
    """(B, length) bool: the mask given, or else all but the runs of pad tokens at the ends of each row.

    Where the end-of-sequence token serves as pad token, those at the end of a row are taken for what they say.
    """
    if attention_mask is not None:
        return attention_mask.bool()
    pad, eos = config.pad_token_id, config.eos_token_id
    token = input_ids != pad
    is_text = token.cumsum(dim=1) > 0
    if pad in (eos if isinstance(eos, list) else [eos]):
        return is_text
    return is_text & (token.flip(1).cumsum(dim=1).flip(1) > 0)


def splice(
    input_ids: torch.LongTensor,
    labels: torch.LongTensor,
    visual: Iterator[torch.Tensor],
    embed_tokens: nn.Module,
    limit: int | None = None,
) -> tuple[torch.Tensor, torch.LongTensor]:
    """One prompt's embeddings (length, D) and labels (length,), with the next images of `visual` in place.

    Args:
        input_ids, labels: (length,) int64; an image token is -200.
        visual: (length, D) visual tokens of one image after another.
        embed_tokens: ids to (length, D).
        limit: tokens after which it is cut, with a warning; None for none.
    """
    is_image = input_ids == IMAGE_TOKEN_INDEX
    cuts = [-1, *is_image.nonzero().flatten().tolist(), len(input_ids)]
    lengths = [end - start - 1 for start, end in pairwise(cuts)]
    text = embed_tokens(input_ids[~is_image]).split(lengths)
    text_labels = labels[~is_image].split(lengths)
    embeds, new_labels = [text[0]], [text_labels[0]]
    for after, after_labels in zip(text[1:], text_labels[1:]):
        tokens = next(visual).to(after)
        embeds += [tokens, after]
        new_labels += [labels.new_full((len(tokens),), IGNORE_INDEX), after_labels]
    embeds, new_labels = torch.cat(embeds), torch.cat(new_labels)
    if limit and len(embeds) > limit:
        logger.warning("a training sample of %d tokens is cut to tokenizer_model_max_length %d", len(embeds), limit)
        embeds, new_labels = embeds[:limit], new_labels[:limit]
    return embeds, new_labels
