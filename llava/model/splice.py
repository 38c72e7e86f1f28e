"""Put visual tokens into prompts: which tokens are text, and each image token replaced by its image's visual tokens.

Shapes: B prompts, L the longest of them with its images in place, D model channels.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedPrompts:
    """Prompts as the language model takes them, each image in its place.

    Attributes:
        inputs_embeds: (B, L, D).
        attention_mask: (B, L) int64, 0 where there is padding.
        is_visual: (B, L) bool: which tokens are visual tokens, newlines of anyres among them.
        labels: (B, L) int64, -100 at visual tokens and padding; None where none were given.
        num_visual_tokens: how many visual tokens each image has, in the order of the images.
        source: (B, L) int64: which token of the prompt's ids each token comes from.
        shift: (B, L) int64: how many places the images have moved each token up.
    """

    inputs_embeds: torch.Tensor
    attention_mask: torch.LongTensor
    is_visual: torch.BoolTensor
    labels: torch.LongTensor | None
    num_visual_tokens: list[int]
    source: torch.LongTensor
    shift: torch.LongTensor

    @property
    def longest(self) -> int:
        """L."""
        return self.inputs_embeds.shape[1]

    def positions(self, past: torch.LongTensor) -> torch.LongTensor:
        """(B, L): consecutive positions after `past` (B, 1) tokens; 0 where there is padding."""
        return ((self.attention_mask.cumsum(dim=1) - 1).clamp(min=0) + past) * self.attention_mask

    def expand_positions(self, given: torch.LongTensor) -> torch.LongTensor:
        """(B, L) positions, from those of the prompts' ids (B, length) or, if there are L, as they are.

        The visual tokens of an image take the positions from its image token on, and what follows moves up.
        """
        if given.shape[-1] == self.longest:
            return given
        return (given.expand(len(self.source), -1).gather(1, self.source) + self.shift) * self.attention_mask


def text_mask(
    input_ids: torch.LongTensor, attention_mask: torch.Tensor | None, config: GenerationConfig
) -> torch.BoolTensor:
    """(B, length) bool: the mask given, or else all but the runs of pad tokens at the ends of each row.

    Where the end-of-sequence token serves as pad token, those at the end of a row count as text.
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
    mask: torch.BoolTensor,
    labels: torch.LongTensor | None,
    visual: list[torch.Tensor],
    embed_tokens: nn.Module,
    padding_side: str,
    limit: int | None = None,
) -> EmbeddedPrompts:
    """Embed prompts and put the images' visual tokens in place of their image tokens.

    Args:
        input_ids, labels: (B, length) int64; an image token is -200; labels may be None.
        mask: (B, length), true where there is no padding.
        visual: (number, D) of one image after another, over all prompts.
        embed_tokens: ids to (number, D).
        padding_side: "left" or "right".
        limit: tokens after which a prompt is cut, with a warning; None for no limit.

    Raises InputError if there are not as many images as image tokens.
    """
    placeholders = int(((input_ids == IMAGE_TOKEN_INDEX) & mask).sum())
    if len(visual) != placeholders:
        raise InputError(f"{len(visual)} image(s) for {placeholders} <image> placeholder(s) in the prompt")
    remaining = iter(visual)
    rows = [_Row.from_ids(ids[m], m.nonzero().flatten(), remaining, embed_tokens) for ids, m in zip(input_ids, mask)]
    if limit:
        rows = [row.cut(limit) for row in rows]

    def pad(parts: list[torch.Tensor], value: int = 0) -> torch.Tensor:
        return pad_sequence(parts, batch_first=True, padding_value=value, padding_side=padding_side)

    new_labels = None
    if labels is not None:
        own = [of_row[row.source].masked_fill(row.is_visual, IGNORE_INDEX) for of_row, row in zip(labels, rows)]
        new_labels = pad(own, IGNORE_INDEX)
    return EmbeddedPrompts(
        inputs_embeds=pad([row.embeds for row in rows]),
        attention_mask=pad([torch.ones_like(row.source) for row in rows]),
        is_visual=pad([row.is_visual for row in rows]),
        labels=new_labels,
        num_visual_tokens=[len(tokens) for tokens in visual],
        source=pad([row.source for row in rows]),
        shift=pad([row.shift for row in rows]),
    )


@dataclass(frozen=True)
class _Row:
    """One prompt without padding: embeddings (length, D), and (length,) as in `EmbeddedPrompts`."""

    embeds: torch.Tensor
    is_visual: torch.BoolTensor
    source: torch.LongTensor
    shift: torch.LongTensor

    @classmethod
    def from_ids(cls, ids: torch.LongTensor, places: torch.LongTensor, visual: Iterator[torch.Tensor], embed) -> "_Row":
        """`ids` (length,) without padding, at `places` of the prompt; the next images of `visual` are put in place."""
        is_image = ids == IMAGE_TOKEN_INDEX
        cuts = [-1, *is_image.nonzero().flatten().tolist(), len(ids)]
        text = embed(ids[~is_image]).split([end - start - 1 for start, end in pairwise(cuts)])
        embeds, repeats = [text[0]], torch.ones_like(ids)
        for at, after in zip(cuts[1:-1], text[1:]):
            tokens = next(visual).to(after)
            embeds += [tokens, after]
            repeats[at] = len(tokens)
        embeds = torch.cat(embeds)
        own = torch.arange(len(ids), device=ids.device).repeat_interleave(repeats)
        shift = torch.arange(len(embeds), device=ids.device) - own
        return cls(embeds, is_image.repeat_interleave(repeats), places.repeat_interleave(repeats), shift)

    def cut(self, limit: int) -> "_Row":
        """The first `limit` tokens, with a warning if there are more."""
        if len(self.embeds) <= limit:
            return self
        logger.warning(
            "a training sample of %d tokens is cut to tokenizer_model_max_length %d", len(self.embeds), limit
        )
        return _Row(self.embeds[:limit], self.is_visual[:limit], self.source[:limit], self.shift[:limit])
