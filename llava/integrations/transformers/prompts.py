"""Prompts whose pictures are pruned: the placeholders of dropped patches leave them.

Shapes: B prompts, L tokens of the longest as the processor wrote it, S tokens of the longest that is pruned, P tokens
in the cache before it, V visual tokens of all pictures, D model channels.
"""

import itertools
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from llava.errors import InputError
from llava.integrations.transformers.budget import Budget
from llava.integrations.transformers.hosts.base import Picture
from llava.pruning import METHOD_NAMES, PruningError, VisualTokens, keep_patches, select

IGNORED_LABEL = -100
ATTRIBUTE = "pruned_prompts"  # of a cache: the prompts that it holds


@dataclass(frozen=True)
class Cached:
    """What a cache holds of pruned prompts.

    Attributes:
        columns: (B, P) int64: which token of the prompts each cached token is, -1 for padding.
        length: L, of the prompts as the processor wrote them.
        next_position: (B, 1) int64: the position of the token that follows them.
        is_pruned: whether this class knows it from pruned prompts, and not from a cache that others made.
    """

    columns: torch.LongTensor
    length: int
    next_position: torch.LongTensor
    is_pruned: bool = True

    @classmethod
    def without_pruning(cls, ids: torch.LongTensor, past: int, mask: torch.Tensor | None = None) -> "Cached":
        """A cache of `past` tokens before `ids` (B, L), of which none was dropped.

        Args:
            mask: (B, past + L): the tokens are numbered without padding; or None: with it.
        """
        columns = torch.arange(past, device=ids.device).expand(len(ids), -1)
        if mask is None or mask.shape[1] <= past:
            return cls(columns, past, columns.new_full((len(ids), 1), past), is_pruned=False)
        return cls(columns, past, mask[:, :past].sum(dim=1, keepdim=True), is_pruned=False)

    def up_to(self, past: int) -> "Cached":
        """The same after so many cached tokens: those of the answers so far follow the prompts.

        Raises InputError if the cache was cut inside the prompts.
        """
        more = past - self.columns.shape[1]
        if more < 0:
            raise InputError("the cache was cut inside its pruned prompt: start with a new one")
        added = torch.arange(self.length, self.length + more, device=self.columns.device)
        columns = torch.cat([self.columns, added.expand(len(self.columns), -1)], dim=1)
        return replace(self, columns=columns, length=self.length + more, next_position=self.next_position + more)

    def take(self, values: torch.Tensor, padding: int) -> torch.Tensor:
        """(B, P) of values (B, L or more) of the prompts as they were written; `padding` where there is none."""
        return _take(values, self.columns, padding)

    def for_rows(self, rows: int) -> "Cached":
        """The same for `rows` prompts, several beams of each."""
        beams = rows // len(self.columns)
        return replace(
            self,
            columns=self.columns.repeat_interleave(beams, dim=0),
            next_position=self.next_position.repeat_interleave(beams, dim=0),
        )


@dataclass(frozen=True)
class Unpruned:
    """Prompts as the processor wrote them, or what follows of them after a cache.

    Attributes:
        cached: what is before them.
        before: (B, cached.length) int64: the ids of that, if they were given; else (B, 0).
        input_ids: (B, L) int64.
        attention_mask: (B, cached.length + L), 0 where there is padding.
        positions: (B, L) int64 of all tokens: those that stay are renumbered; or (3, B, L) with M-RoPE: they keep them.
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

    def places_of(self, placeholder: int) -> torch.BoolTensor:
        """(B, len(before) + L): where its placeholders are."""
        whole = torch.cat([self.before, self.input_ids], dim=1)
        return (whole == placeholder) & self.attention_mask[:, -whole.shape[1] :].bool()


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
        return _take(values, self.columns, padding)

    @cached_property
    def as_cached(self) -> Cached:
        """What a cache holds once they are in it."""
        before, own = self.cached.length, self.columns
        columns = torch.cat([self.cached.columns, own.where(own < 0, own + before)], dim=1)
        return Cached(columns, before + self.length, self.next_position)

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
    unpruned: Unpruned, pictures: list[tuple[int, list[Picture]]], budget: Budget, pad_id: int
) -> Prompts:
    """Choose visual tokens and take the placeholders of the others out of prompts.

    Args:
        pictures: for each placeholder's id the pictures, in the order of the placeholders.
        budget: how many tokens stay.
        pad_id: the id of padding.

    Raises InputError if pictures and placeholders do not match, PruningError if the method cannot work here.
    """
    ids, mask, cached = unpruned.input_ids, unpruned.mask, unpruned.cached
    keep, token = mask.clone(), torch.full_like(ids, -1)
    parts: list[Picture] = []
    for placeholder, own in pictures:
        if not own:
            continue
        is_own = (ids == placeholder) & mask
        _check_places(is_own, own, placeholder)
        before = sum(len(part.tokens) for part in parts)
        number = sum(len(part.tokens) for part in own)
        token[is_own] = torch.arange(before, before + number, device=token.device)
        keep[is_own] = torch.cat([kept_places(part, budget) for part in own]).to(keep.device)
        parts += own
    rows = [row.nonzero().flatten() for row in keep]
    columns = pad_sequence(rows, batch_first=True, padding_value=-1, padding_side=unpruned.padding_side)
    positions, next_position = _positions(unpruned, mask & ~keep, columns)
    return Prompts(
        cached=cached,
        input_ids=_take(ids, columns, pad_id),
        attention_mask=torch.cat([cached.take(unpruned.attention_mask, 0).long(), (columns >= 0).long()], dim=1),
        positions=positions,
        next_position=next_position,
        columns=columns,
        length=ids.shape[1],
        tokens=torch.cat([part.tokens for part in parts]) if parts else None,
        layers=tuple(torch.cat(layer) for layer in zip(*(part.layers for part in parts))),
        token=_take(token, columns, -1),
        aligned={
            name: pad(_take(value, columns, 0), (cached.columns.shape[1], 0))
            for name, value in unpruned.aligned.items()
        },
    )


def _positions(
    unpruned: Unpruned, is_dropped: torch.BoolTensor, columns: torch.LongTensor
) -> tuple[torch.LongTensor, torch.LongTensor]:
    """`positions` and `next_position` of pruned prompts, whose tokens are at `columns` (B, S) of those unpruned.

    With M-RoPE what follows has the position after that of the full grid.
    """
    last = unpruned.positions.masked_fill(~unpruned.mask, -1)
    if unpruned.positions.ndim == 3:
        positions = torch.stack([_take(axis, columns, 0) for axis in unpruned.positions])
        return positions, last.amax(dim=(0, 2)).unsqueeze(1) + 1
    shift = is_dropped.cumsum(dim=1)
    return _take(unpruned.positions - shift, columns, 0), last.amax(dim=1, keepdim=True) + 1 - shift[:, -1:]


@torch.no_grad()
def kept_places(picture: Picture, budget: Budget) -> torch.BoolTensor:
    """(n,): which placeholders of a picture stay.

    Raises PruningError for a method that merges patches: a merged token has no placeholder.
    """
    crops, patches, _ = picture.views.features.shape
    settings = budget.settings_for(patches, crops)
    chosen = select(picture.views, settings)
    if not chosen.has_places:
        raise PruningError(f"the pruning method {settings.pruning_method} merges patches, so that they have no places")
    if settings.pruning_method not in METHOD_NAMES and _changes_tokens(chosen, picture.views.features):
        raise PruningError(f"the pruning method {settings.pruning_method} changes what it keeps, and here tokens stay")
    keep = torch.ones(len(picture.tokens), dtype=torch.bool, device=picture.places.device)
    keep[picture.places[picture.places >= 0]] = False
    places = picture.places.view(len(chosen.patches), -1)  # one list of all crops, where the budget is for all
    chosen = places.gather(1, chosen.patches.to(keep.device))
    keep[chosen[chosen >= 0]] = True
    return keep


def _changes_tokens(chosen: VisualTokens, features: torch.Tensor) -> bool:
    """Whether tokens of crops (K, N, C) are no longer the features of their patches."""
    own = keep_patches(features.reshape(len(chosen.patches), -1, features.shape[-1]), chosen.patches)
    return not torch.equal(own.nan_to_num(), chosen.tokens.nan_to_num())


def after_cache(pictures: list[Picture], placeholder: int, unpruned: Unpruned) -> list[Picture]:
    """The pictures that are not in the cache, where all of a conversation's were given again."""
    if not pictures or not unpruned.before.shape[1]:
        return pictures
    columns = unpruned.places_of(placeholder).nonzero()[:, 1].tolist()
    if sum(len(picture.tokens) for picture in pictures) != len(columns):
        return pictures
    starts = [0, *itertools.accumulate(len(picture.tokens) for picture in pictures)]
    return [picture for picture, start in zip(pictures, starts) if columns[start] >= unpruned.cached.length]


def _take(values: torch.Tensor, columns: torch.LongTensor, padding: int) -> torch.Tensor:
    """Values (B, L) at `columns` (B, S); `padding` where a column is -1."""
    return values.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, padding)


def _check_places(is_own: torch.BoolTensor, pictures: list[Picture], placeholder: int) -> None:
    """Raise InputError unless the placeholders are as many as the pictures' tokens, each picture's in one prompt."""
    numbers = [len(picture.tokens) for picture in pictures]
    rows = is_own.nonzero()[:, 0].tolist()
    if len(rows) != sum(numbers):
        raise InputError(
            f"{sum(numbers)} visual token(s) of {len(pictures)} picture(s) for {len(rows)} placeholder(s) with id "
            f"{placeholder} in the prompts"
        )
    start = 0
    for number in numbers:
        if rows[start] != rows[start + number - 1]:
            raise InputError("the placeholders of a picture are spread over two prompts")
        start += number
