"""Which patches a method keeps of each crop, and whether that can be drawn at all."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from llava.model.encode import choose
from llava.pruning import Settings, Views, method_label


@dataclass(frozen=True)
class Kept:
    """The kept patches of one crop, numbers in raster order.

    Attributes:
        important: those that were chosen for their importance.
        others: the diverse ones, or what a method without important ones keeps.
    """

    important: frozenset[int]
    others: frozenset[int]


@torch.inference_mode()
def kept_patches(model, views: Views, pruning: Settings) -> list[Kept] | None:
    """What the method of `pruning` keeps of each crop; None where its tokens are not patches, or not chosen yet.

    `views` are those of the K crops of one image, by the model's tower. Raises InputError if the method cannot work on
    the tower.
    """
    if pruning.prunes_in_decoder or pruning.question_views:
        return None
    chosen = choose(model, views, pruning)
    if not chosen.has_places:
        return None
    crops, patches, _ = views.features.shape
    every = _by_crop(chosen.patches, crops, patches)
    is_pruned = chosen.patches.numel() < crops * patches
    found = pruning.method.important(views, pruning) if is_pruned else None
    important = [frozenset[int]()] * crops if found is None else _by_crop(found, crops, patches)
    return [Kept(first & all_of_crop, all_of_crop - first) for first, all_of_crop in zip(important, every)]


def _by_crop(chosen: torch.LongTensor, crops: int, patches: int) -> list[frozenset[int]]:
    """Patches (K, T), or (1, T) that are numbered one crop after the other, as a set for each crop."""
    if len(chosen) == crops:
        return [frozenset(crop) for crop in chosen.tolist()]
    return [_between(chosen[0].tolist(), i * patches, (i + 1) * patches) for i in range(crops)]


def _between(numbers: Iterable[int], first: int, end: int) -> frozenset[int]:
    return frozenset(number - first for number in numbers if first <= number < end)


def why_not_drawn(pruning: Settings) -> str:
    """Why `kept_patches` of these settings is None."""
    name = method_label(pruning.pruning_method)
    if pruning.prunes_in_decoder:
        return f"{name} drops visual tokens inside the language model, by the question: no patch is chosen before that."
    if pruning.question_views:
        return f"{name} chooses by the first question about the picture: no patch is chosen before that."
    return f"{name} merges patches: its tokens stand for several of them each, and have no place in the picture."
