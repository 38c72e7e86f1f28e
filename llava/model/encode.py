"""The one door of images: tower, choice of visual tokens, projection, crops joined into one sequence.

    encoded = encode(model, images, sizes)
    tokens = visual_tokens(model, encoded, pruning, questions)

Training, `generate`, the engine, conversations and the servers pass here. vLLM and transformers' models have towers of
their own, and share with this file `encodes_one_by_one` and what `llava.pruning` has.

Shapes: K crops of an image, N patches, T kept tokens, C vision channels, D model channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch

from llava.errors import InputError
from llava.model.anyres import join_crops
from llava.model.graphs import MOST_CROPS
from llava.model.places import place_tokens
from llava.model.splice import PlacedTokens
from llava.pruning import METHOD_NAMES, MergedTokens, Settings, Views, VisualTokens, method_label, select


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
        ran: what the tower ran to, for a selection that is recorded; empty where none is.

    What was chosen last is kept, so that a call that differs in `positions` alone chooses nothing anew.
    """

    views: Views
    size: tuple[int, int] | None
    has_crops: bool
    ran: tuple[torch.Tensor, ...] = field(default=(), repr=False)
    _chosen: dict = field(default_factory=dict, repr=False, compare=False)  # by question, for one choice of settings

    def tokens(self, model, pruning: Settings, question: str = "") -> torch.Tensor | PlacedTokens:
        """(length, D): its visual tokens for these settings and a question about it, as the language model takes them.

        They have places where `pruning` keeps the room of the unpruned image.

        Raises InputError if the method cannot work on the tower, or its crops do not fit its size.
        """
        if pruning.pruning_method not in METHOD_NAMES:  # a user's may choose otherwise when it is asked again
            return self.join(model, choose(model, self.views, pruning, question, self.ran), pruning)
        key = pruning.choice, question
        chosen = self._chosen.get(key)
        if chosen is None:
            chosen = choose(model, self.views, pruning, question, self.ran)
            if any(settings != pruning.choice for settings, _ in list(self._chosen)):
                self._chosen.clear()
            self._chosen[key] = chosen
        return self.join(model, chosen, pruning)

    def join(self, model, chosen: VisualTokens | MergedTokens, pruning: Settings) -> torch.Tensor | PlacedTokens:
        """(length, D): the tokens `chosen` of its crops, projected, in one sequence."""
        newline, tower = getattr(model.model, "image_newline", None), model.get_vision_tower()
        crops, patches, _ = self.views.features.shape
        layout = {"config": model.config, "tower": tower, "newline": newline, "image_size": self.size, "crops": crops}
        has_all = chosen.has_places and chosen.patches.numel() == crops * patches
        if pruning.keeps_room and not has_all:
            return place_tokens(chosen, pruning.positions, patches, has_crops=self.has_crops, **layout)
        return join_crops(chosen, **layout) if self.has_crops else chosen.tokens[0]


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
        seen = [_run_tower(model, own) for own in crops]
    else:
        (whole, ran), ends = _run_tower(model, torch.cat(crops)), [0, *accumulate(map(len, crops))]
        parts = [slice(start, end) for start, end in pairwise(ends)]
        seen = [(whole.crops(part), tuple(own[part] for own in ran)) for part in parts]
    sizes = [None] * len(crops) if sizes is None else sizes
    cut = [image.ndim == 4 if has_crops is None else has_crops for image in images]
    return [Encoded(views, size, own, ran) for (views, ran), size, own in zip(seen, sizes, cut, strict=True)]


def _run_tower(model, pixels: torch.Tensor) -> tuple[Views, tuple[torch.Tensor, ...]]:
    """The tower's views of crops (K, 3, height, width), with the projected features; what it ran to, if recorded."""
    tower, ran = model.get_vision_tower(), None
    if _records(model, len(pixels)):
        ran = model.graphs.run(("tower",), "the vision tower", tower.run, pixels.to(tower.device, tower.dtype))
    views = tower.encode(pixels) if ran is None else tower.views(pixels, *ran)
    return views.project_by(model.project), ran or ()


def _records(model, crops: int) -> bool:
    """Whether so many crops pass through tower and selection as CUDA graphs."""
    if not model.records or model.training or torch.is_grad_enabled() or crops > MOST_CROPS:
        return False
    tower, why = model.get_vision_tower(), None
    if not tower.is_recordable:
        why = f"{type(tower).__name__} has an encode of its own"
    elif tower.device != model.graphs.recorder.device:
        why = f"it is on {tower.device}, the language model's last layer on {model.graphs.recorder.device}"
    if why is not None:
        model.graphs.say(f"the vision tower runs uncompiled: {why}")
    return why is None


def choose(
    model, views: Views, pruning: Settings, question: str = "", ran: tuple[torch.Tensor, ...] = ()
) -> VisualTokens | MergedTokens:
    """The kept tokens of crops, projected: (K, T, D).

    `ran` is what the tower ran to, where the selection is to be recorded too.

    Raises InputError if the method cannot work on this tower.
    """
    tower = model.get_vision_tower()
    if pruning.prunes_before_decoder and tower.select_feature != "patch":
        raise InputError(f"pruning needs mm_vision_select_feature 'patch', not {tower.select_feature!r}")
    if ran and (chosen := _choose_recorded(model, views, pruning, ran)) is not None:
        return chosen
    if pruning.question_views:
        views = model.with_question(views, pruning, question)
    chosen = select(views, pruning)  # [VisPruner]
    return chosen.project(model.project)


def _choose_recorded(
    model, views: Views, pruning: Settings, ran: tuple[torch.Tensor, ...]
) -> VisualTokens | MergedTokens | None:
    """The same as a CUDA graph, which makes the views anew from what the tower ran to; None where it cannot be one."""
    name, tower = pruning.pruning_method, model.get_vision_tower()
    selecting = f"the selection by {method_label(name)}"
    if pruning.prunes_before_decoder and name not in METHOD_NAMES:
        model.graphs.say(f"{selecting} runs uncompiled: a graph would not see what a user's method does on the host")
        return None
    if pruning.prunes_before_decoder and pruning.question_views:
        model.graphs.say(f"{selecting} runs uncompiled: it depends on the question")
        return None

    def select_and_project(pixels: torch.Tensor, *ran: torch.Tensor) -> VisualTokens | MergedTokens:
        return select(tower.views(pixels, *ran).project_by(model.project), pruning).project(model.project)

    return model.graphs.run(
        ("selection", pruning.choice), selecting, select_and_project, views.pixels.to(tower.device), *ran
    )


def visual_tokens(
    model, encoded: list[Encoded], pruning: Settings, questions: Sequence[str] | None = None
) -> list[torch.Tensor | PlacedTokens]:
    """The visual tokens (length, D) of each image, chosen in one call where that cannot change what is kept.

    `questions` is what is asked about each, for methods that choose by it. Raises InputError as `Encoded.tokens`.
    """
    questions = [""] * len(encoded) if questions is None else questions
    one_by_one = encodes_one_by_one(model.get_vision_tower().dtype, model.training)
    if one_by_one or pruning.is_for_one_image or len(encoded) == 1:
        return [image.tokens(model, pruning, asked) for image, asked in zip(encoded, questions, strict=True)]
    views = [image.views for image in encoded]
    ran = ()
    if all(image.ran for image in encoded) and _records(model, sum(len(image.ran[0]) for image in encoded)):
        ran = tuple(map(torch.cat, zip(*(image.ran for image in encoded))))
    chosen = choose(model, Views.joined(views), pruning, ran=ran).split([len(own.features) for own in views])
    return [image.join(model, own, pruning) for image, own in zip(encoded, chosen, strict=True)]
