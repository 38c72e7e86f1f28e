"""What a pruning method is: an object that declares facts about itself and chooses.

This file does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava.pruning.errors import PruningError
from llava.pruning.tokens import MergedTokens, VisualTokens
from llava.pruning.views import Views

if TYPE_CHECKING:
    import torch

FACTS = (
    "needs",
    "reads_ratio",
    "draws_at_random",
    "merges",
    "in_decoder",
    "blind",
    "each_crop_alone",
    "one_image_at_a_time",
)


class Method:
    """A way to choose visual tokens. A subclass declares what differs from the defaults here.

    Attributes:
        needs: the views of the question that it reads (`views.QUESTION_VIEWS`); what it keeps is then for one question.
        reads_ratio: whether it uses `important_ratio`.
        draws_at_random: whether it uses `pruning_seed`.
        merges: whether it returns `MergedTokens`, which are no patches.
        in_decoder: whether it drops tokens inside the language model, by `prune_decoder` in place of `select`.
        blind: whether the language model is shown no picture: the placeholder and the line break after it leave the
            prompt, the tower does not run, and no budget is read.
        each_crop_alone: whether it cannot choose among all crops of an image as among one list of patches.
        one_image_at_a_time: whether a call of `select` must be about one image.
    """

    needs: tuple[str, ...] = ()
    reads_ratio: bool = False
    draws_at_random: bool = False
    merges: bool = False
    in_decoder: bool = False
    blind: bool = False
    each_crop_alone: bool = False

    @property
    def one_image_at_a_time(self) -> bool:
        return bool(self.needs)

    def select(self, views: Views, settings: Any) -> VisualTokens | MergedTokens:
        """The visual tokens of K crops, for `Settings` that prune; all of them for a method in the decoder."""
        return views.keep_all()

    def count(self, number: int, patches: int) -> int:
        """How many visual tokens are left of `patches` for a budget of `number` below that, known before it chooses."""
        return number

    def important(self, views: Views, settings: Any) -> torch.LongTensor | None:
        """(K, number) int64: the kept patches that were chosen by importance; None if there are no such."""
        return None


@dataclass(frozen=True)
class Wrapper(Method):
    """A method around another one. It shares that one's facts unless it overrides them."""

    method: Method

    def count(self, number: int, patches: int) -> int:
        return self.method.count(number, patches)


for _fact in FACTS:
    setattr(Wrapper, _fact, property(lambda self, fact=_fact: getattr(self.method, fact)))


@dataclass(frozen=True)
class PerImage(Wrapper):
    """One budget for all crops of an image: the method is given the patches of all crops as one list.

    Raises PruningError, with the method's `name`, for a method that cannot choose so.
    """

    name: str
    one_image_at_a_time = True

    def __post_init__(self) -> None:
        if self.in_decoder or self.each_crop_alone:
            raise PruningError(f"budget_per: {self.name} cannot choose among all crops of an image")

    def select(self, views: Views, settings: Any) -> VisualTokens | MergedTokens:
        return self.method.select(self._together(views), settings)

    def important(self, views: Views, settings: Any) -> torch.LongTensor | None:
        return self.method.important(self._together(views), settings)

    def _together(self, views: Views) -> Views:
        return views.together() if len(views.features) > 1 else views
