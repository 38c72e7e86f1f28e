"""What every pruning method is given: `Views`, a vision tower's output for some crops.

Shapes: K crops, N patches, T kept tokens, C vision channels, D model channels. This file does not import torch, so that
command-line options can be checked without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from llava.pruning.errors import PruningError
from llava.pruning.tokens import VisualTokens, keep_patches

if TYPE_CHECKING:
    import torch

    Source = torch.Tensor | Callable[[], torch.Tensor]


class View:
    """One view, computed when it is first read, with its shape and meaning."""

    def __init__(self, doc: str, *, together: Callable | None = None, of_question: bool = False) -> None:
        """`together` turns the view of K crops into the view of one; None if that is impossible."""
        self.__doc__, self.together, self.of_question = doc, together, of_question

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, views: Views | None, owner: type | None = None):
        if views is None:
            return self
        source = views._sources.get(self.name)
        if source is None and self.of_question:
            raise PruningError(
                f"the pruning method needs {self.name}, but no question was asked here, or its NEEDS lack it"
            )
        if source is None:
            raise PruningError(f"this vision tower gives no {self.name}, which the pruning method needs")
        if callable(source):
            source = views._sources[self.name] = source()
        return source


def _in_one_list(of_patches: torch.Tensor) -> torch.Tensor:
    """(K, N, ...) of crops -> (1, K N, ...)."""
    return of_patches.flatten(0, 1).unsqueeze(0)


class Views:
    """The vision tower's output for K crops in the layer that LLaVA reads, and the question asked about them.

    Every view may be given as a function, which is called when a method first reads it. Reading a view that the tower
    does not have raises a PruningError that names it. Others read the same tensors: a method must not write into them.
    A user's method gets copies (see `guest`).
    """

    features = View("(K, N, C): of the patches, those that LLaVA reads.", together=_in_one_list)
    importance = View(
        """(K, N) float32: how important each patch is.

        In CLIP the attention of [CLS] to it, mean over heads; without [CLS] the attention that it receives, mean over
        queries and heads.
        """,
        together=_in_one_list,
    )
    hidden_states = View("(K, 1 + N, C): all tokens of the layer, [CLS] first.")
    keys = View("(K, 1 + N, head width): the layer's keys, mean over heads, [CLS] first.")
    received = View("(K, N) float32: the attention that each patch receives in the layer, mean over queries and heads.")
    object_received = View("(K, N) float32: the same in the layer at 3/8 of the tower's depth, the 9th of CLIP's 24.")
    grid = View("(K, 2) int64: how many patches a column and a row of the crop have.")
    pixels = View(
        "(K, 3, height, width): what the tower was given; (1, K, 3, height, width) of crops together.",
        together=lambda pixels: pixels.unsqueeze(0),
    )
    projected = View("(K, N, D): the features as the language model would see them.", together=_in_one_list)
    image_embeds = View("(K, N, E): CLIP's embeddings of the patches, comparable to texts'.", together=_in_one_list)
    question = View("What is asked about the image, as text.", of_question=True)
    text_embeds = View("(M, E): CLIP's embeddings of the question, of M pieces of 77 tokens.", of_question=True)
    word_embeds = View("(m, D): the language model's embeddings of the question's tokens.", of_question=True)

    def __init__(self, features: Source, **sources: Source | str | None) -> None:
        """`sources` are the other views by name. Raises TypeError for a name that is no view."""
        if unknown := sources.keys() - VIEWS.keys():
            raise TypeError(f"there is no view {min(unknown)!r}: {', '.join(VIEWS)}")
        self._sources = {name: source for name, source in sources.items() if source is not None}
        self._sources["features"] = features

    def _made(self, make: Callable, names: Iterable[str]) -> dict[str, Callable]:
        """Lazy sources for other views: `make(name)` of those of these that there are."""
        return {name: lambda name=name: make(name) for name in names if name in self._sources}

    def _of_question(self) -> dict:
        return {name: self._sources[name] for name in QUESTION_VIEWS if name in self._sources}

    def project_by(self, project: Callable[[torch.Tensor], torch.Tensor]) -> Views:
        """Let methods read the features `projected`: `project` takes (K, N, C) to (K, N, D). Returns these views."""
        features = self.features  # not through self: a reference cycle would keep all views until garbage collection
        self._sources["projected"] = lambda: project(features)
        return self

    def with_question(self, **of_question: Source | str) -> Views:
        """These views with the views of a question (`QUESTION_VIEWS`) replaced."""
        return self.crops(slice(None), **of_question)

    def crops(self, crops: slice, **of_question: Source | str) -> Views:
        """The views of some of the crops. What is computed for them is computed once, for all crops."""
        parts = self._made(lambda name: getattr(self, name)[crops], CROP_VIEWS)
        return Views(**parts, **(self._of_question() | of_question))

    @staticmethod
    def joined(images: list[Views]) -> Views:
        """The views of several images' crops as one batch, image after image, without the views of a question."""
        import torch

        shared = [name for name in CROP_VIEWS if all(name in image._sources for image in images)]
        parts = images[0]._made(lambda name: torch.cat([getattr(image, name) for image in images]), shared)
        return Views(**parts)

    def together(self) -> Views:
        """The views of K crops as the views of one crop with K N patches.

        `hidden_states` and `keys` are left out, since every crop has a [CLS] token of its own in them.
        """
        joinable = [name for name in CROP_VIEWS if VIEWS[name].together]
        parts = self._made(lambda name: VIEWS[name].together(getattr(self, name)), joinable)
        return Views(**parts, **self._of_question())

    def keep(self, patches: torch.LongTensor) -> VisualTokens:
        """The features of `patches` (K, T), indices in any order, as visual tokens in raster order."""
        patches = patches.sort(dim=1).values
        return VisualTokens(keep_patches(self.features, patches), patches)

    def keep_all(self) -> VisualTokens:
        """Every patch."""
        import torch

        crops, patches, _ = self.features.shape
        return VisualTokens(self.features, torch.arange(patches, device=self.features.device).expand(crops, -1))


VIEWS: dict[str, View] = {name: view for name, view in vars(Views).items() if isinstance(view, View)}
QUESTION_VIEWS = tuple(name for name, view in VIEWS.items() if view.of_question)
CROP_VIEWS = [name for name in VIEWS if name not in QUESTION_VIEWS]


def square_grids(crops: int, patches: int) -> torch.LongTensor:
    """(crops, 2): the view `grid` of crops that are squares of so many patches, or merged tokens."""
    import torch

    return torch.tensor([[math.isqrt(patches)] * 2] * crops)
