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


@dataclass(frozen=True, eq=False)
class PlacedTokens:
    """The visual tokens of a pruned image that keep the room that it has unpruned. A bare tensor has as much as tokens.

    Attributes:
        tokens: (L, D).
        places: (L,) int64: the index of each token in the image's unpruned sequence (see `llava.model.places`), or 0 to
            L - 1 where tokens are renumbered; in no order where tokens were merged, and several may have the same.
        room: the length of the unpruned sequence: text that follows stands so far behind the image's begin.
    """

    tokens: torch.Tensor
    places: torch.LongTensor
    room: int

    def __len__(self) -> int:
        return len(self.tokens)


def room_of(tokens: torch.Tensor | PlacedTokens) -> int:
    """By how many positions an image moves what follows it."""
    return tokens.room if isinstance(tokens, PlacedTokens) else len(tokens)


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
        position: (B, L) int64: of each token, counted from the prompt's first.
        shift: (B, L) int64: by how many positions the images have moved each token up.
        ends: B numbers: the position of text that follows each prompt, which may be more than its tokens: see `places`.
    """

    inputs_embeds: torch.Tensor
    attention_mask: torch.LongTensor
    is_visual: torch.BoolTensor
    labels: torch.LongTensor | None
    num_visual_tokens: list[int]
    source: torch.LongTensor
    position: torch.LongTensor
    shift: torch.LongTensor
    ends: list[int]

    @property
    def longest(self) -> int:
        """L: the tokens that the longest prompt has in the KV cache."""
        return self.inputs_embeds.shape[1]

    @property
    def furthest(self) -> int:
        """The greatest of `ends`: how much of the context the prompts use up."""
        return max(self.ends)

    @property
    def next_position(self) -> torch.LongTensor:
        """(B, 1): `ends`."""
        return torch.tensor(self.ends, device=self.position.device).unsqueeze(1)

    def positions(self, start: torch.LongTensor | int = 0) -> torch.LongTensor:
        """(B, L): positions of prompts of which each begins at its `start` (B, 1); 0 where there is padding."""
        return (self.position + start) * self.attention_mask

    def ends_at(self, positions: torch.LongTensor) -> torch.LongTensor:
        """(B, 1): the position of text that follows, where the tokens are at `positions` (B, L)."""
        column = torch.arange(1, self.longest + 1, device=positions.device)
        last = (self.attention_mask * column).argmax(dim=1, keepdim=True)
        return (positions - self.position).gather(1, last) + self.next_position

    def expand_positions(self, given: torch.LongTensor) -> torch.LongTensor:
        """(B, L) positions, from those of the prompts' ids (B, length) or, if there are L, as they are.

        The visual tokens of an image take the positions from its image token on, and what follows moves up by its room.
        """
        if given.shape[-1] == self.longest:
            return given
        return (given.expand(len(self.source), -1).gather(1, self.source) + self.shift) * self.attention_mask


def check_answerable(positions: torch.LongTensor, ends: torch.LongTensor) -> None:
    """Raise InputError unless prompts at `positions` (B, L), padded on the left, are followed by text at `ends` (B, 1).

    transformers goes on right behind the last token, which is too soon after an image that keeps room.
    """
    if not torch.equal(positions[:, -1:] + 1, ends):
        raise InputError("positions: a prompt must not end with an image that keeps its room: text has to follow it")


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
    visual: list[torch.Tensor | PlacedTokens],
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
        limit: the position at which a prompt is cut, with a warning; None for no limit.

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
        position=pad([row.position for row in rows]),
        shift=pad([row.shift for row in rows]),
        ends=[row.end for row in rows],
    )


@dataclass(frozen=True)
class _Row:
    """One prompt without padding: embeddings (length, D), and (length,) or a number as in `EmbeddedPrompts`."""

    embeds: torch.Tensor
    is_visual: torch.BoolTensor
    source: torch.LongTensor
    position: torch.LongTensor
    shift: torch.LongTensor
    end: int

    @classmethod
    def from_ids(
        cls, ids: torch.LongTensor, columns: torch.LongTensor, visual: Iterator[torch.Tensor | PlacedTokens], embed
    ) -> "_Row":
        """`ids` (length,) without padding, at `columns` of the prompt; the next images of `visual` are put in place."""
        is_image = ids == IMAGE_TOKEN_INDEX
        cuts = [-1, *is_image.nonzero().flatten().tolist(), len(ids)]
        numbers = [end - start - 1 for start, end in pairwise(cuts)]
        text = embed(ids[~is_image]).split(numbers)
        own, position = torch.arange(len(ids), device=ids.device), torch.arange(numbers[0], device=ids.device)
        embeds, positions, repeats, start = [text[0]], [position], torch.ones_like(ids), numbers[0]
        for at, after, number in zip(cuts[1:-1], text[1:], numbers[1:]):
            image = next(visual)
            is_placed, behind = isinstance(image, PlacedTokens), start + room_of(image)
            tokens = (image.tokens if is_placed else image).to(after)
            places = image.places.to(own) if is_placed else torch.arange(len(tokens), device=ids.device)
            embeds += [tokens, after]
            positions += [start + places, torch.arange(behind, behind + number, device=ids.device)]
            repeats[at], start = len(tokens), behind + number
        position = torch.cat(positions)
        is_visual, columns = is_image.repeat_interleave(repeats), columns.repeat_interleave(repeats)
        return cls(torch.cat(embeds), is_visual, columns, position, position - own.repeat_interleave(repeats), start)

    def cut(self, limit: int) -> "_Row":
        """The tokens at positions below `limit`, with a warning if there are more."""
        if self.end <= limit:
            return self
        logger.warning("a training sample of %d tokens is cut to tokenizer_model_max_length %d", self.end, limit)
        stays = self.position < limit
        tensors = (self.embeds, self.is_visual, self.source, self.position, self.shift)
        return _Row(*(values[stays] for values in tensors), limit)
