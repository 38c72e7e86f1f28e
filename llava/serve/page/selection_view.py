"""Which patches a method keeps of each crop, and whether that can be drawn at all."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from llava.conversation import question_in
from llava.model.anyres import join_crops
from llava.model.encode import Encoded, choose
from llava.pruning import Settings, Views, VisualTokens, method_label
from llava.pruning.kv_cache import cache_of


@dataclass(frozen=True)
class Kept:
    """The kept patches of one crop, numbers in raster order.

    Attributes:
        important: those that were chosen for their importance.
        others: the diverse ones, or what a method without important ones keeps.
    """

    important: frozenset[int]
    others: frozenset[int]


Chosen = tuple[Settings, list[Kept]]  # what was kept of each crop, and with which settings


@torch.inference_mode()
def kept_patches(model, views: Views, pruning: Settings, asked: str = "") -> list[Kept] | None:
    """What the method of `pruning` keeps of each crop; None where its tokens are not patches, or not chosen yet.

    `views` are those of the K crops of one image, by the model's tower; `asked` is what is asked about it, empty where
    there is no question yet. Raises InputError if the method cannot work on the tower.
    """
    if pruning.prunes_in_decoder or (pruning.question_views and not asked):
        return None
    question = question_in(asked)
    chosen = choose(model, views, pruning, question)
    if not chosen.has_places:
        return None
    crops, patches, _ = views.features.shape
    every = _by_crop(chosen.patches, crops, patches)
    is_pruned = chosen.patches.numel() < crops * patches
    if pruning.question_views:
        views = model.with_question(views, pruning, question)
    found = pruning.method.important(views, pruning) if is_pruned else None
    important = [frozenset[int]()] * crops if found is None else _by_crop(found, crops, patches)
    return [Kept(first & all_of_crop, all_of_crop - first) for first, all_of_crop in zip(important, every)]


@contextmanager
def watching_decoder(model, encoded: Encoded) -> Iterator[list[list[Kept]]]:
    """Collect which patches of a picture a method inside the language model keeps of each prompt that it reads.

    The picture must be the prompt's only one. Nothing is collected of a method that does not say which tokens it
    leaves, and of a picture whose crops were shrunk: its tokens are no patches.
    """
    found: list[list[Kept]] = []

    def note(module, args: tuple, options: dict, output) -> None:
        cache, is_visual = cache_of(output), options.get("is_visual")
        if cache is None or is_visual is None or is_visual.shape[1] != getattr(cache, "prompt_length", 0) or found:
            return
        left, visual = set(cache.left[0].tolist()), is_visual[0].nonzero()[:, 0].tolist()
        patches = _patches_of_tokens(model, encoded)
        if patches is not None and len(patches) == len(visual):
            kept = [patch for patch, place in zip(patches, visual) if place in left and patch >= 0]
            crops, number, _ = encoded.views.features.shape
            every = _by_crop(torch.tensor([kept], dtype=torch.long), crops, number) if crops > 1 else [frozenset(kept)]
            found.append([Kept(frozenset(), of_crop) for of_crop in every])

    hook = model.model.register_forward_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


def _patches_of_tokens(model, encoded: Encoded) -> list[int] | None:
    """The patch of each visual token of an unpruned picture, numbered one crop after the other; -1 for newlines."""
    crops, patches, _ = encoded.views.features.shape
    numbers = torch.arange(crops * patches)
    if not encoded.has_crops:
        return numbers.tolist()
    tower, mark = model.get_vision_tower(), None if getattr(model.model, "image_newline", None) is None else -1
    marked = VisualTokens(numbers.view(crops, patches, 1).double(), torch.arange(patches).expand(crops, -1))
    newline = None if mark is None else torch.tensor([mark])
    joined = join_crops(marked, model.config, tower, newline, encoded.size, crops).squeeze(-1)
    is_whole = joined == joined.round()
    return joined.long().tolist() if bool(is_whole.all()) else None


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
        return f"{name} drops visual tokens inside the language model, by the question: they are drawn with the answer."
    if pruning.question_views:
        return f"{name} chooses by the first question about the picture: its patches are drawn with the answer."
    return f"{name} merges patches: its tokens stand for several of them each, and have no place in the picture."
