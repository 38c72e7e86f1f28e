"""Generation for a batch of prompts; what prompts begin with passes through the model once.

Shapes: B prompts, R rows of a stage, L tokens up to and with it, D model channels.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, PreTrainedModel

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.kv_cache import roomy_cache
from llava.model.splice import EmbeddedPrompts, PlacedTokens, check_answerable, splice
from llava.pruning import Settings
from llava.pruning.kv_cache import CACHE


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel,
    prompts: list[torch.LongTensor],
    visual: list[list[torch.Tensor | PlacedTokens]],
    pruning: Settings,
    texts: dict[tuple, _Begun] | None = None,
    **options,
) -> torch.LongTensor:
    """Answer prompts. Those that follow one another and are alike up to their last image share that part, and all share
    the text before their first images if it is the same.

    Args:
        model: a LLaVA model in eval mode.
        prompts: B tensors (length,) int64 of token ids, with -200 for each image.
        visual: the visual tokens (length, D) of each image of each prompt; the same tensor where the image is the same.
        pruning: the settings of this call.
        texts: what has begun so in earlier calls, by the text's ids; a new one is added.
        options: transformers' generation options.

    Returns: (B, new) ids of the answers; in float32 each is the one that the prompt gets by itself.
    Raises: InputError if a prompt is longer than the context.
    """
    cuts = [_after_last_image(ids) for ids in prompts]
    firsts = [0]  # the prompts that begin otherwise than the one before
    for i, j in pairwise(range(len(prompts))):
        same_images = all(a is b for a, b in zip(visual[i], visual[j])) and len(visual[i]) == len(visual[j])
        if not same_images or not torch.equal(prompts[i][: cuts[i]], prompts[j][: cuts[j]]):
            firsts.append(j)
    text = _common_text([prompts[i] for i in firsts])
    # What a method in the decoder keeps of a beginning depends on the ending: there is nothing to share. What is
    # recorded begins with an empty cache: to share a picture is worth more than that, to share a text is not.
    has_begun = not (pruning.prunes_in_decoder or (model.records and len(firsts) == len(prompts)))
    if not has_begun or not cuts[0] or len(prompts) == 1 or not (text or len(firsts) < len(prompts)):
        whole = embed(model, prompts, _flat(visual))
        model.check_context(whole.furthest)
        return model.answer(whole, pruning, **options)
    begun, rows = _Begun(roomy_cache(model.config)), [0] * len(prompts)
    if text:
        texts, key = {} if texts is None else texts, tuple(prompts[0][:text].tolist())
        if key not in texts:
            begun.go_on(model, embed(model, [prompts[0][:text]], []))
            texts[key] = begun
        begun = texts[key].copied()
    if len(firsts) < len(prompts):
        beginnings = [prompts[i][text : cuts[i]] for i in firsts]
        begun.go_on(model, embed(model, beginnings, _flat([visual[i] for i in firsts])), [0] * len(firsts))
        rows = [sum(first <= i for first in firsts) - 1 for i in range(len(prompts))]
        endings = embed(model, [ids[cut:] for ids, cut in zip(prompts, cuts)], [])
    else:
        endings = embed(model, [ids[text:] for ids in prompts], _flat(visual))
    return begun.answer(model, endings, rows, pruning, **options)


def embed(
    model: PreTrainedModel, prompts: list[torch.LongTensor], visual: list[torch.Tensor | PlacedTokens]
) -> EmbeddedPrompts:
    """Prompts padded on the left, with the visual tokens of all their images in place.

    Raises InputError if there are not as many images as image tokens.
    """
    ids, mask = _pad_left([prompt.to(model.device) for prompt in prompts])
    return splice(ids, mask.bool(), None, visual, model.model.embed_tokens, "left")


@dataclass
class _Begun:
    """What prompts begin with: R rows of tokens whose keys and values are in a cache.

    Attributes:
        cache: their keys and values.
        embeds, mask, positions, is_visual: (R, L, ...) as in `EmbeddedPrompts`; None as long as nothing has begun.
        end: (R, 1): the position of what follows.
    """

    cache: Cache
    embeds: torch.Tensor | None = None
    mask: torch.LongTensor | None = None
    positions: torch.LongTensor | None = None
    is_visual: torch.BoolTensor | None = None
    end: torch.LongTensor | None = None

    def copied(self) -> _Begun:
        """The same, to go on from more than once."""
        cache = copy(self.cache)
        cache.layers = [copy(layer) for layer in cache.layers]  # which replace their tensors, and write into none
        return replace(self, cache=cache)

    def _add(self, parts: EmbeddedPrompts, rows: list[int]) -> None:
        """Add the tokens of `parts`, of which part i follows row `rows[i]`; their keys and values are yet to come."""
        if self.end is None:
            self.embeds, self.mask, self.positions = parts.inputs_embeds, parts.attention_mask, parts.positions()
            self.is_visual, self.end = parts.is_visual, parts.next_position
            return
        start = self.end[rows]
        own = (parts.inputs_embeds, parts.attention_mask, parts.positions(start), parts.is_visual)
        before = (self.embeds, self.mask, self.positions, self.is_visual)
        both = (torch.cat([old[rows], new], dim=1) for old, new in zip(before, own))
        self.embeds, self.mask, self.positions, self.is_visual = both
        self.end = start + parts.next_position

    def go_on(self, model: PreTrainedModel, parts: EmbeddedPrompts, rows: list[int] | None = None) -> None:
        """Let `parts` pass through the model, each after its row of `rows`; they are the rows then."""
        length = parts.longest
        if rows is not None and self.end is not None:
            self.cache.batch_select_indices(torch.tensor(rows, device=model.device))
        self._add(parts, rows or [])
        model.model(
            inputs_embeds=parts.inputs_embeds,
            attention_mask=self.mask,
            position_ids=self.positions[:, -length:],
            use_cache=True,
            **{CACHE: self.cache},
        )

    def answer(
        self, model: PreTrainedModel, endings: EmbeddedPrompts, rows: list[int], pruning: Settings, **options
    ) -> torch.LongTensor:
        """Answer B prompts of which prompt i begins with row `rows[i]` and goes on with ending i."""
        # Beam search multiplies its inputs by the number of beams, but not a cache that it is given.
        chosen = torch.tensor(rows, device=model.device).repeat_interleave(options.get("num_beams") or 1)
        self.cache.batch_select_indices(chosen)
        self._add(endings, rows)
        check_answerable(self.positions, self.end)
        furthest = int(self.end.max())
        model.check_context(furthest)
        return model.generate_from_embeds(
            self.embeds, self.mask, furthest, self.is_visual, pruning, self.positions, cache=self.cache, **options
        )


def _after_last_image(ids: torch.LongTensor) -> int:
    """Where a prompt (length,) continues after its last image; 0 if it has no image."""
    places = (ids == IMAGE_TOKEN_INDEX).nonzero()
    return int(places[-1]) + 1 if len(places) else 0


def _common_text(prompts: list[torch.LongTensor]) -> int:
    """How many tokens stand before the first image of several prompts, if they are the same in all; else 0."""
    length = int((prompts[0] == IMAGE_TOKEN_INDEX).int().argmax())
    is_same = all(torch.equal(ids[: length + 1], prompts[0][: length + 1]) for ids in prompts)
    return length if len(prompts) > 1 and is_same else 0


def _flat(visual: list[list]) -> list:
    return [tokens for images in visual for tokens in images]


def _pad_left(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.LongTensor]:
    """Rows of differing length as one tensor, and the mask (rows, longest) of what is not padding."""
    mask = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    return tuple(pad_sequence(part, batch_first=True, padding_side="left") for part in (rows, mask))
