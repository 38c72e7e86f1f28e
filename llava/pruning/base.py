"""What every pruning method takes and returns: `Views`, `PruningSettings`, `VisualTokens`, `MergedTokens`.

Shapes: K crops, N patches, T kept tokens, C vision channels, D model channels, H heads. This file does not import
torch, so that command-line options can be checked without it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from llava.pruning.errors import PruningError
from llava.pruning.registry import NONE, VISPRUNER, check_pruning_method, load_method

if TYPE_CHECKING:
    import torch

    Source = torch.Tensor | Callable[[], torch.Tensor]


CROP, IMAGE = "crop", "image"
BUDGETS_PER = (CROP, IMAGE)
OF_CROPS = ("importance", "hidden_states", "keys", "pixels", "projected", "image_embeds")
QUESTION_VIEWS = ("question", "text_embeds", "word_embeds")


@dataclass(frozen=True)
class PruningSettings:
    """How many visual tokens one call keeps, and how they are chosen.

    Attributes:
        visual_token_num: T, an integer >= 1; None keeps all.
        important_ratio: VisPruner's share of T in [0, 1] that is chosen by [CLS] attention.
        pruning_method: a name, file or module that `registry.load_method` takes.
        pruning_seed: the seed of what a method draws at random.
        budget_per: what T is the budget of: each "crop", or all crops of an "image" together, which are then one list
            of patches to a method.

    Raises ValueError, naming the setting, for a value that is none of these, and for a method that cannot take the
    crops of an image together.
    """

    visual_token_num: int | None = None
    important_ratio: float = 0.5
    pruning_method: str = VISPRUNER
    pruning_seed: int = 0
    budget_per: str = CROP

    def __post_init__(self) -> None:
        check_budget(self.visual_token_num, self.important_ratio)
        check_pruning_method(self.pruning_method)
        if not _is_integer(self.pruning_seed):
            raise ValueError(f"pruning_seed must be an integer, got {self.pruning_seed!r}")
        if self.budget_per not in BUDGETS_PER:
            raise ValueError(f"budget_per must be {' or '.join(BUDGETS_PER)}, got {self.budget_per!r}")
        if self.budget_per == IMAGE and self.prunes:
            method = load_method(self.pruning_method)
            if not hasattr(method, "select") or getattr(method, "EACH_CROP_ALONE", False):
                raise PruningError(f"budget_per: {self.pruning_method} cannot choose among all crops of an image")

    @property
    def prunes(self) -> bool:
        """Whether there is a budget and a method that heeds it."""
        return self.visual_token_num is not None and self.pruning_method != NONE

    @cached_property
    def prunes_in_decoder(self) -> bool:
        """Whether visual tokens are dropped inside the language model, so that its prefill begins with all of them."""
        return self.prunes and not hasattr(load_method(self.pruning_method), "select")

    @cached_property
    def question_views(self) -> tuple[str, ...]:
        """What the method `NEEDS` of the question; if anything, what it keeps of an image is for one question.

        Raises PruningError if that is not of `QUESTION_VIEWS`.
        """
        needs = tuple(getattr(load_method(self.pruning_method), "NEEDS", ())) if self.prunes else ()
        if not set(needs) <= set(QUESTION_VIEWS):
            known = ", ".join(QUESTION_VIEWS)
            raise PruningError(f"the pruning method {self.pruning_method}: NEEDS may have {known}, not {needs}")
        return needs

    @property
    def is_for_one_image(self) -> bool:
        """Whether the method has to be asked for one image at a time."""
        return bool(self.question_views) or self.budget_per == IMAGE

    @property
    def prunes_before_decoder(self) -> bool:
        """Whether fewer visual tokens enter the language model than there are patches."""
        return self.prunes and not self.prunes_in_decoder

    def kept(self, patches: int, crops: int = 1) -> int:
        """Visual tokens with which an image enters the language model, of so many crops with so many patches each.

        What joins the crops may drop tokens on padding and add newlines after that.
        """
        if not self.prunes_before_decoder:
            return crops * patches
        if self.budget_per == IMAGE:
            return min(self.visual_token_num, crops * patches)
        return crops * min(self.visual_token_num, patches)

    def share_in_decoder(self, patches: int) -> float:
        """The share of the visual tokens that a method inside the decoder leaves, of crops of so many patches."""
        return min(1.0, self.visual_token_num / patches) if self.prunes_in_decoder else 1.0


def check_budget(visual_token_num: int | None, important_ratio: float) -> None:
    """Raise ValueError unless `visual_token_num` is None or an integer >= 1 and `important_ratio` is in [0, 1]."""
    if visual_token_num is not None:
        if not _is_integer(visual_token_num):
            raise ValueError(f"visual_token_num must be an integer, got {visual_token_num!r}")
        if visual_token_num < 1:
            raise ValueError(f"visual_token_num must be at least 1, got {visual_token_num}")
    is_number = isinstance(important_ratio, int | float) and not isinstance(important_ratio, bool)
    if not is_number or not 0 <= important_ratio <= 1:
        raise ValueError(f"important_ratio must be a number in [0, 1], got {important_ratio!r}")


def _is_integer(value: object) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


class Views:
    """What the vision tower saw of K crops in the layer that LLaVA reads.

    Every view but the features may be given as a function, which is called when a method first asks for the view. A
    view that the tower does not have is a PruningError that names it.
    """

    def __init__(
        self,
        features: torch.Tensor,
        *,
        importance: Source | None = None,
        hidden_states: Source | None = None,
        keys: Source | None = None,
        pixels: Source | None = None,
        projected: Source | None = None,
        question: str | None = None,
        text_embeds: Source | None = None,
        image_embeds: Source | None = None,
        word_embeds: Source | None = None,
    ) -> None:
        """`features` are (K, N, C); the shapes of the others stand at the properties."""
        self.features = features
        self._sources = {
            "importance": importance,
            "hidden_states": hidden_states,
            "keys": keys,
            "pixels": pixels,
            "projected": projected,
            "question": question,
            "text_embeds": text_embeds,
            "image_embeds": image_embeds,
            "word_embeds": word_embeds,
        }

    def _view(self, name: str) -> torch.Tensor:
        source = self._sources[name]
        if source is None and name in QUESTION_VIEWS:
            raise PruningError(f"the pruning method needs {name}, but no question was asked here, or its NEEDS lack it")
        if source is None:
            raise PruningError(f"this vision tower gives no {name}, which the pruning method needs")
        if callable(source):
            source = self._sources[name] = source()
        return source

    @property
    def importance(self) -> torch.Tensor:
        """(K, N) float32: how important each patch is.

        From CLIP the attention of [CLS] to it, mean over heads; without [CLS] the attention that it receives, mean over
        queries and heads.
        """
        return self._view("importance")

    @property
    def hidden_states(self) -> torch.Tensor:
        """(K, 1 + N, C): all tokens of the layer, [CLS] first."""
        return self._view("hidden_states")

    @property
    def keys(self) -> torch.Tensor:
        """(K, 1 + N, head width): the layer's keys, mean over heads, [CLS] first."""
        return self._view("keys")

    @property
    def pixels(self) -> torch.Tensor:
        """(K, 3, height, width): what the tower was given."""
        return self._view("pixels")

    @property
    def projected(self) -> torch.Tensor:
        """(K, N, D): the features as the language model would see them."""
        return self._view("projected")

    @property
    def question(self) -> str:
        """What is asked about the image, as text."""
        return self._view("question")

    @property
    def text_embeds(self) -> torch.Tensor:
        """(M, E): CLIP's embeddings of the question, of M pieces of 77 tokens."""
        return self._view("text_embeds")

    @property
    def image_embeds(self) -> torch.Tensor:
        """(K, N, E): CLIP's embeddings of the patches, beside those of texts."""
        return self._view("image_embeds")

    @property
    def word_embeds(self) -> torch.Tensor:
        """(m, D): the language model's embeddings of the question's tokens."""
        return self._view("word_embeds")

    def project_by(self, project: Callable[[torch.Tensor], torch.Tensor]) -> Views:
        """Let methods see the features `projected`: `project` takes (K, N, C) to (K, N, D). Returns these views."""
        features = self.features  # not by way of self: a circle would keep all views until the garbage collector comes
        self._sources["projected"] = lambda: project(features)
        return self

    def of(self, crops: slice, **of_question: Source | str) -> Views:
        """The views of some of the crops; what is computed for them is computed for all, and once.

        `of_question` has the views of a question (`QUESTION_VIEWS`), in place of those here.
        """
        parts = {
            name: lambda name=name: getattr(self, name)[crops] for name in OF_CROPS if self._sources[name] is not None
        }
        own = {name: self._sources[name] for name in QUESTION_VIEWS}
        return Views(self.features[crops], **parts, **(own | of_question))

    @staticmethod
    def joined(images: list[Views]) -> Views:
        """The views of several images' crops as those of one batch, one image after the other; none of a question."""
        import torch

        parts = {
            name: lambda name=name: torch.cat([getattr(image, name) for image in images])
            for name in OF_CROPS
            if all(image._sources[name] is not None for image in images)
        }
        return Views(torch.cat([image.features for image in images]), **parts)

    def together(self) -> Views:
        """The views of K crops as those of one crop with K N patches; `pixels` are (1, K, 3, height, width).

        There are no `hidden_states` and `keys`, whose [CLS] tokens are one of each crop.
        """
        of_patches = ("importance", "projected", "image_embeds")
        parts = {
            name: lambda name=name: getattr(self, name).flatten(0, 1).unsqueeze(0)
            for name in of_patches
            if self._sources[name] is not None
        }
        if self._sources["pixels"] is not None:
            parts["pixels"] = lambda: self.pixels.unsqueeze(0)
        own = {name: self._sources[name] for name in QUESTION_VIEWS}
        return Views(self.features.flatten(0, 1).unsqueeze(0), **parts, **own)

    def keep(self, patches: torch.LongTensor) -> VisualTokens:
        """The features of `patches` (K, T), indices in any order, as visual tokens in raster order."""
        patches = patches.sort(dim=1).values
        return VisualTokens(keep_patches(self.features, patches), patches)

    def keep_all(self) -> VisualTokens:
        """Every patch."""
        import torch

        crops, patches, _ = self.features.shape
        return VisualTokens(self.features, torch.arange(patches, device=self.features.device).expand(crops, -1))


@dataclass(frozen=True)
class VisualTokens:
    """Tokens that are patches of the picture.

    Attributes:
        tokens: (K, T, C), in the tower's channels.
        patches: (K, T) int64, ascending: which patch each token is, in raster order. Where the budget is that of an
            image, (1, T): the patches of its crops are numbered one crop after the other.
    """

    tokens: torch.Tensor
    patches: torch.LongTensor
    has_places: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or self.tokens.shape[:2] != self.patches.shape:
            shapes = f"{tuple(self.tokens.shape)} and {tuple(self.patches.shape)}"
            raise PruningError(f"tokens must be (K, T, C) and patches (K, T), got {shapes}")

    def split(self, counts: list[int]) -> list[VisualTokens]:
        """The tokens of one image after the other, of which each has so many crops."""
        return [VisualTokens(*part) for part in zip(self.tokens.split(counts), self.patches.split(counts), strict=True)]


@dataclass(frozen=True)
class MergedTokens:
    """Tokens that stand for several patches each, and so have no place in the picture.

    Attributes:
        tokens: (K, T, C), in the tower's channels.
    """

    tokens: torch.Tensor
    has_places: ClassVar[bool] = False

    def split(self, counts: list[int]) -> list[MergedTokens]:
        """The tokens of one image after the other, of which each has so many crops."""
        return [MergedTokens(part) for part in self.tokens.split(counts)]


def keep_patches(features: torch.Tensor, patches: torch.LongTensor) -> torch.Tensor:
    """The features (K, T, C) of `patches` (K, T) out of (K, N, C)."""
    import torch

    crop = torch.arange(len(features), device=features.device).unsqueeze(1)
    return features[crop, patches]  # whole rows: on a CPU several times as fast as a gather


def highest(scores: torch.Tensor, number: int) -> torch.LongTensor:
    """Positions (K, number) of the highest of (K, N) scores, ascending; of equal ones the lower position is taken."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :number].sort(dim=1).values
