"""Which patches a method keeps of each crop, and whether it can be drawn at all."""

from dataclasses import dataclass

import torch

from llava.pruning import MergedTokens, Settings, Views, method_label, select
from llava.pruning.method import VISPRUNER
from llava.pruning.methods.vispruner import important_patches


@dataclass(frozen=True)
class Kept:
    """The kept patches of one crop, numbers in raster order.

    Attributes:
        important: those that VisPruner chose for their importance.
        others: its diverse ones, or what another method keeps.
    """

    important: frozenset[int]
    others: frozenset[int]


@torch.inference_mode()
def kept_patches(views: Views, pruning: Settings) -> list[Kept] | None:
    """What the method of `pruning` keeps of each crop; None where its tokens are no patches, or not yet chosen.

    Raises PruningError if the method cannot work on the tower.
    """
    if pruning.prunes_in_decoder or pruning.question_views:
        return None
    chosen = select(views, pruning)
    if isinstance(chosen, MergedTokens):
        return None
    patches = [frozenset(crop) for crop in chosen.patches.tolist()]
    important = [frozenset[int]()] * len(patches)
    prunes = chosen.patches.shape[1] < views.features.shape[1]
    if prunes and pruning.pruning_method == VISPRUNER:
        important = [frozenset(crop) for crop in important_patches(views, pruning).tolist()]
    return [Kept(first, every - first) for first, every in zip(important, patches)]


def why_not_drawn(pruning: Settings) -> str:
    """Why `kept_patches` of these settings is None."""
    name = method_label(pruning.pruning_method)
    if pruning.prunes_in_decoder:
        return f"{name} drops visual tokens inside the language model, by the question: no patch is chosen before that."
    if pruning.question_views:
        return f"{name} chooses by the first question about the picture: no patch is chosen before that."
    return f"{name} merges patches: its tokens stand for several of them each, and have no place in the picture."
