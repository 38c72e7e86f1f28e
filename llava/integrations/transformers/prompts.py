"""Prompts whose pictures are pruned: the placeholders of dropped patches leave them.

Shapes: B prompts, L tokens of the longest as the processor wrote it, S tokens of the longest that is pruned, P tokens
in the cache before it, V visual tokens of all pictures, D model channels.
"""

from dataclasses import dataclass, field

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from llava.errors import InputError
from llava.integrations.transformers.budget import Budget
from llava.integrations.transformers.cached import Cached, Memory, take
from llava.integrations.transformers.hosts.base import Picture
from llava.pruning import METHOD_NAMES, PruningError, VisualTokens, keep_patches, select
from llava.pruning.settings import ORIGINAL, RENUMBERED

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Unpruned:
    """Prompts as the processor wrote them, or what follows of them after a cache.

    Attributes:
        cached: what is before them.
        before: (B, cached.length) int64: the ids of that, if they were given; else (B, 0).
        input_ids: (B, L) int64.
        attention_mask: (B, cached.length + L), 0 where there is padding.
        positions: (B, L + 1) int64 of all tokens and of one that follows: the setting `positions` says which those
            that stay get; or (3, B, L + 1) with M-RoPE: they keep them. At first (B, L), counted from 0.
        padding_side: where prompts are padded that are shorter than others when they are pruned.
        aligned: (B, L) each: arguments that go along with the ids.
    """

    cached: Cached
    before: torch.LongTensor
    input_ids: torch.LongTensor
    attention_mask: torch.Tensor
    positions: torch.LongTensor
    padding_side: str
    aligned: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (batch, length), past = self.input_ids.shape, self.cached.length
        if self.attention_mask.shape != (batch, past + length):
            raise InputError(
                f"attention_mask has shape {tuple(self.attention_mask.shape)}, but there are {batch} prompts of "
                f"{length} tokens" + (f" after {past} tokens in the cache" if past else "")
            )

    @property
    def mask(self) -> torch.BoolTensor:
        """(B, L)."""
        return self.attention_mask[:, self.cached.length :].bool()


@dataclass(frozen=True)
class Prompts:
    """Pruned prompts, or what follows of them after a cache of P tokens.

    Attributes:
        cached: what is before them; P may be 0.
        input_ids: (B, S) int64.
        attention_mask: (B, P + S) int64.
        positions: (B, S) int64, or (3, B, S) with M-RoPE.
        next_position: (B, 1) int64.
        columns: (B, S) int64: which token of the prompts given each is, -1 for padding.
        length: L, of the prompts given.
        tokens: (V, D), the pictures' tokens, those that are dropped among them; None where there are none.
        layers: as in `hosts.base.Picture`, (V, D) each.
        token: (B, S) int64: which of the V each token is, -1 for text and padding.
        aligned: (B, P + S) each: arguments that go along with the ids, 0 for what is in the cache.
        memory: what the cache is to know once they are in it; None if nothing that it does not know.
    """

    cached: Cached
    input_ids: torch.LongTensor
    attention_mask: torch.LongTensor
    positions: torch.LongTensor
    next_position: torch.LongTensor
    columns: torch.LongTensor
    length: int
    tokens: torch.Tensor | None
    layers: tuple[torch.Tensor, ...]
    token: torch.LongTensor
    aligned: dict[str, torch.Tensor]
    memory: Memory | None

    @property
    def start(self) -> int:
        """P."""
        return self.cached.columns.shape[1]

    @property
    def end(self) -> int:
        """P + S."""
        return self.start + self.columns.shape[1]

    def take(self, values: torch.Tensor, padding: int) -> torch.Tensor:
        """(B, S) of values (B, L) of the prompts as they were given; `padding` where there is none."""
        return take(values, self.columns, padding)

    def step(self, past: int, length: int, rows: int) -> "Step":
        """The part of them, or of what follows them, that `length` tokens after `past` cached ones are.

        `rows` is B, or B times the beams.
        """
        if past < self.start:
            raise InputError("the cache was cut after a pruned prompt: start with a new one")
        part, beams = slice(past - self.start, past - self.start + length), rows // len(self.columns)
        more = torch.arange(max(0, past + length - self.end), device=self.columns.device)
        positions = torch.cat([self.positions, self._expand(self.next_position + more)], dim=-1)[..., part]
        token = pad(self.token, (0, len(more)), value=-1)[:, part]
        aligned = {
            name: pad(value, (0, len(more)))[:, : past + length].repeat_interleave(beams, dim=0)
            for name, value in self.aligned.items()
        }
        return Step(positions.repeat_interleave(beams, dim=-2), token.repeat_interleave(beams, dim=0), aligned)

    def _expand(self, positions: torch.LongTensor) -> torch.LongTensor:
        return positions if self.positions.ndim == 2 else positions.expand(3, -1, -1)


@dataclass(frozen=True)
class Step:
    """What some tokens of one call of the language model are: positions and `token` as in `Prompts`.

    `aligned` has what is in the cache too, by which transformers' models make masks.
    """

    positions: torch.LongTensor
    token: torch.LongTensor
    aligned: dict[str, torch.Tensor]


def prune_prompts(
    unpruned: Unpruned, pictures: list[tuple[int, list[Picture]]], budget: Budget, pad_id: int, are_crops: bool = False
) -> Prompts:
    """Choose visual tokens and take the placeholders of the others out of prompts.

    Args:
        pictures: for each placeholder's id the pictures, in the order of the placeholders.
        budget: how many tokens stay.
        pad_id: the id of padding.
        are_crops: whether pictures without a word between them are crops of one.

    Raises PruningError if the method cannot work here.
    """
    ids, mask, cached = unpruned.input_ids, unpruned.mask, unpruned.cached
    keep, token = mask.clone(), torch.full_like(ids, -1)
    parts = [part for _, own in pictures for part in own]
    before = 0
    for placeholder, own in pictures:
        if not own:
            continue
        is_own = (ids == placeholder) & mask
        number = sum(len(part.tokens) for part in own)
        token[is_own] = torch.arange(before, before + number, device=token.device)
        keep[is_own] = torch.cat([kept_places(part, budget) for part in own]).to(keep.device)
        before += number
    stays = not parts and bool(mask[:, -1].all())  # text after a cache, whose padding may stay where it is
    rows = [row.nonzero().flatten() for row in (torch.ones_like(mask) if stays else keep)]
    columns = pad_sequence(rows, batch_first=True, padding_value=-1, padding_side=unpruned.padding_side)
    picture = number_pictures(token, [] if are_crops else [len(part.tokens) for part in parts])
    shift = positions_lost(pad(mask & ~keep, (0, 1)), pad(picture, (0, 1), value=-1), budget.settings.positions)
    positions, token = _positions(unpruned, shift, columns), take(token, columns, -1)
    start = cached.columns.shape[1]
    return Prompts(
        cached=cached,
        input_ids=take(ids, columns, pad_id),
        attention_mask=torch.cat([cached.take(unpruned.attention_mask, 0), take(mask, columns, 0)], dim=1).long(),
        positions=positions[..., :-1],
        next_position=_axis(positions)[:, -1:],
        columns=columns,
        length=ids.shape[1],
        tokens=torch.cat([part.tokens for part in parts]) if parts else None,
        layers=tuple(torch.cat(layer) for layer in zip(*(part.layers for part in parts))),
        token=token,
        aligned={name: pad(take(value, columns, 0), (start, 0)) for name, value in unpruned.aligned.items()},
        memory=None if stays else memory_after(unpruned, columns, token, positions),
    )


def number_pictures(token: torch.LongTensor, numbers: list[int]) -> torch.LongTensor:
    """(B, L): a number for each picture, or each run of its placeholders; -1 for text.

    Args:
        token: (B, L), which of the pictures' tokens each placeholder stands for, -1 for text.
        numbers: how many each picture has; empty where one run is one picture.
    """
    is_visual = token >= 0
    begins = is_visual & ~pad(is_visual, (1, 0))[:, :-1]
    if numbers:
        firsts = torch.tensor([0, *numbers[:-1]], device=token.device).cumsum(dim=0)
        begins |= torch.isin(token, firsts)
    return begins.flatten().cumsum(dim=0).view_as(token).where(is_visual, -1)


def positions_lost(is_dropped: torch.BoolTensor, picture: torch.LongTensor, positions: str) -> torch.LongTensor:
    """(B, L): by how many positions each token moves up for those that are dropped, as the setting `positions` says.

    Args:
        is_dropped: (B, L).
        picture: (B, L), the number of each token's picture, -1 for text.
    """
    before = is_dropped.cumsum(dim=1)
    if positions == RENUMBERED:
        return before
    if positions == ORIGINAL:
        return torch.zeros_like(before)
    is_first = picture != pad(picture, (1, 0), value=-1)[:, :-1]
    of_others = ((before - is_dropped.long()) * is_first).cummax(dim=1).values  # before each picture
    return (before - of_others) * (picture >= 0)


def _positions(unpruned: Unpruned, shift: torch.LongTensor, columns: torch.LongTensor) -> torch.LongTensor:
    """(B, S + 1) or (3, B, S + 1): of the tokens at `columns` (B, S), and of one that follows them."""
    columns = pad(columns, (0, 1), value=unpruned.input_ids.shape[1])
    if unpruned.positions.ndim == 3:
        return torch.stack([take(axis, columns, 0) for axis in unpruned.positions])
    return take(unpruned.positions - shift, columns, 0)


def memory_after(
    unpruned: Unpruned, columns: torch.LongTensor, token: torch.LongTensor, positions: torch.LongTensor
) -> Memory:
    """What a cache holds once prompts are in it, less the words at their end, which may be cut off again.

    Args:
        columns, token: as in `Prompts`.
        positions: (B, S + 1) or (3, B, S + 1), of its tokens and of one that follows.
    """
    cached, (size, length) = unpruned.cached, (columns.shape[1], unpruned.input_ids.shape[1])
    written = torch.arange(length - size, length, device=columns.device)
    tail = int(((columns == written) & (token < 0)).all(dim=0).flip(0).cumprod(dim=0).sum())
    size, length = size - tail, length - tail
    columns = torch.cat([cached.columns, columns.where(columns < 0, columns + cached.length)[:, :size]], dim=1)
    return Memory(Cached(columns, cached.length + length, _axis(positions)[:, size : size + 1]))


def _axis(positions: torch.LongTensor) -> torch.LongTensor:
    """(B, S) of positions (B, S) or (3, B, S): those of text are the same on all axes."""
    return positions if positions.ndim == 2 else positions[0]


@torch.no_grad()
def kept_places(picture: Picture, budget: Budget) -> torch.BoolTensor:
    """(n,): which placeholders of a picture stay.

    Raises PruningError for a method that merges patches: a merged token has no placeholder.
    """
    crops, patches, _ = picture.views.features.shape
    settings = budget.settings_for(patches, crops, picture.is_video)
    chosen = select(picture.views, settings)
    if not chosen.has_places:
        raise PruningError(f"the pruning method {settings.pruning_method} merges patches, so that they have no places")
    if settings.pruning_method not in METHOD_NAMES and _changes_tokens(chosen, picture.views.features):
        raise PruningError(f"the pruning method {settings.pruning_method} changes what it keeps, and here tokens stay")
    keep = torch.ones(len(picture.tokens), dtype=torch.bool, device=picture.places.device)
    keep[picture.places[picture.places >= 0]] = False
    places = picture.places.reshape(len(chosen.patches), -1)  # one list of all crops, where the budget is for all
    chosen = places.gather(1, chosen.patches.to(keep.device))
    keep[chosen[chosen >= 0]] = True
    return keep


def _changes_tokens(chosen: VisualTokens, features: torch.Tensor) -> bool:
    """Whether tokens of crops (K, N, C) are no longer the features of their patches."""
    own = keep_patches(features.reshape(len(chosen.patches), -1, features.shape[-1]), chosen.patches)
    return not torch.equal(own.nan_to_num(), chosen.tokens.nan_to_num())
