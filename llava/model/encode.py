"""The one door of images: tower, choice of visual tokens, projection, crops joined into one sequence.

    encoded = encode(model, images, sizes)
    tokens = visual_tokens(model, encoded, pruning, questions)

Training, `generate`, the engine, conversations and the servers pass here. vLLM and transformers' models have towers of
their own, and share with this file `encodes_one_by_one` and what `llava.pruning` has.

Shapes: K crops of an image, N patches, T kept tokens, C vision channels, D model channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from llava.errors import InputError
from llava.model.anyres import join_crops
from llava.pruning import MergedTokens, Settings, Views, VisualTokens, select


def encodes_one_by_one(dtype: torch.dtype, training: bool) -> bool:
    """Whether a tower of this dtype encodes every image by itself, as it does to answer in float32.

    The size of a batch changes the last bits of the features, and the selection can depend on them, so that an answer
    would depend on what else is in the batch.
    """
    return dtype is torch.float32 and not training


@dataclass(frozen=True)
class Encoded:
    """An image after the vision tower: its visual tokens can be chosen for any settings and question.

    Attributes:
        views: of its crops; `views.pixels` (K, 3, height, width) are what the tower was given.
        size: original (width, height); None if unknown.
        has_crops: whether it was cut into crops, even if into one.
    """

    views: Views
    size: tuple[int, int] | None
    has_crops: bool

    def tokens(self, model, pruning: Settings, question: str = "") -> torch.Tensor:
        """(length, D): its visual tokens for these settings and a question about it, as the language model takes them.

        Raises InputError if the method cannot work on the tower, or its crops do not fit its size.
        """
        return self.join(model, choose(model, self.views, pruning, question))

    def join(self, model, chosen: VisualTokens | MergedTokens) -> torch.Tensor:
        """(length, D): the tokens `chosen` of its crops, projected, in one sequence."""
        if not self.has_crops:
            return chosen.tokens[0]
        newline = getattr(model.model, "image_newline", None)
        crops = len(self.views.features)
        return join_crops(chosen, model.config, model.get_vision_tower(), newline, self.size, crops)


def encode(
    model,
    images: Sequence[torch.Tensor],
    sizes: Sequence[tuple[int, int] | None] | None = None,
    has_crops: bool | None = None,
) -> list[Encoded]:
    """Run the vision tower on images.

    Args:
        model: a LLaVA model.
        images: (3, height, width) or (K, 3, height, width) each.
        sizes: original (width, height) of each.
        has_crops: whether they were cut into crops; if None, 4 dimensions mean crops.
    """
    crops = [image.unsqueeze(0) if image.ndim == 3 else image for image in images]
    if encodes_one_by_one(model.get_vision_tower().dtype, model.training):
        views = [_run_tower(model, own) for own in crops]
    else:
        whole, ends = _run_tower(model, torch.cat(crops)), [0, *accumulate(map(len, crops))]
        views = [whole.crops(slice(start, end)) for start, end in pairwise(ends)]
    sizes = [None] * len(crops) if sizes is None else sizes
    cut = [image.ndim == 4 if has_crops is None else has_crops for image in images]
    return [Encoded(*parts) for parts in zip(views, sizes, cut, strict=True)]


def _run_tower(model, pixels: torch.Tensor) -> Views:
    """The tower's views of crops (K, 3, height, width), the projected features among them."""
    return model.get_vision_tower().encode(pixels).project_by(model.project)


def choose(model, views: Views, pruning: Settings, question: str = "") -> VisualTokens | MergedTokens:
    """The kept tokens of crops, projected: (K, T, D).

    Raises InputError if the method cannot work on this tower.
    """
    tower = model.get_vision_tower()
    if pruning.prunes_before_decoder and tower.select_feature != "patch":
        raise InputError(f"pruning needs mm_vision_select_feature 'patch', not {tower.select_feature!r}")
    if pruning.question_views:
        views = model.with_question(views, pruning, question)
    chosen = select(views, pruning)  # [VisPruner]
    return chosen.project(model.project)


def visual_tokens(
    model, encoded: list[Encoded], pruning: Settings, questions: Sequence[str] | None = None
) -> list[torch.Tensor]:
    """The visual tokens (length, D) of each image, chosen in one call where that cannot change what is kept.

    `questions` is what is asked about each, for methods that choose by it. Raises InputError as `Encoded.tokens`.
    """
    questions = [""] * len(encoded) if questions is None else questions
    one_by_one = encodes_one_by_one(model.get_vision_tower().dtype, model.training)
    if one_by_one or pruning.is_for_one_image or len(encoded) == 1:
        return [image.tokens(model, pruning, asked) for image, asked in zip(encoded, questions, strict=True)]
    views = [image.views for image in encoded]
    chosen = choose(model, Views.joined(views), pruning).split([len(own.features) for own in views])
    return [image.join(model, own) for image, own in zip(encoded, chosen, strict=True)]
