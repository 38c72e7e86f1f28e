"""How many visual tokens a pruned model keeps: a number of each crop, or a share of its patches."""

import math
from dataclasses import dataclass, replace

from llava.errors import InputError
from llava.pruning import Settings
from llava.pruning.settings import IMAGE, take_settings


@dataclass(frozen=True)
class Budget:
    """The settings of a call.

    Attributes:
        visual_token_num: visual tokens of each crop, an integer >= 1, or a share, a float in (0, 1]; None keeps all.
        pruning: the other settings, with no number.

    Raises ValueError for an invalid value; the message names the setting. InputError for a method that merges
    patches, prunes inside the language model or chooses by the question.
    """

    visual_token_num: int | float | None
    pruning: Settings

    def __post_init__(self) -> None:
        number = self.visual_token_num
        if isinstance(number, float):
            if not 0 < number <= 1:
                raise InputError(f"visual_token_num must be an integer or a share in (0, 1], got {number!r}")
        else:
            Settings(visual_token_num=number)
        asked = replace(self.pruning, visual_token_num=1)
        if asked.question_views:
            raise InputError(
                f"the pruning method {self.pruning.pruning_method} chooses by the question, which transformers' models "
                "do not tell apart from the rest of a prompt"
            )
        if asked.prunes and asked.method.merges:
            raise InputError(
                f"the pruning method {self.pruning.pruning_method} merges patches, so that they have no places among "
                "the placeholders of transformers' models"
            )
        if asked.prunes_in_decoder:
            raise InputError(
                f"the pruning method {self.pruning.pruning_method} drops tokens inside the language model, which "
                "transformers' models do not let it do"
            )

    @classmethod
    def from_options(cls, visual_token_num: int | float | None, **others) -> "Budget":
        """A budget; `others` are the other settings of `Settings`."""
        budget = cls(visual_token_num, take_settings(others))
        if others:
            raise TypeError(f"there is no setting {next(iter(others))!r}")
        return budget

    def changed(self, given: dict) -> "Budget":
        """This budget with some of its settings replaced, by name."""
        others = {name: value for name, value in given.items() if name != "visual_token_num"}
        number = given.get("visual_token_num", self.visual_token_num)
        return Budget(number, replace(self.pruning, **others))

    @property
    def prunes(self) -> bool:
        """Whether there is a budget and a method that heeds it."""
        return self.visual_token_num is not None and replace(self.pruning, visual_token_num=1).prunes

    def keeps_all_of(self, patches: int) -> bool:
        """Whether crops of so many patches, and smaller ones, are known to lose none."""
        if self.prunes and self.pruning.budget_per == IMAGE:
            return self.visual_token_num == 1.0 and isinstance(self.visual_token_num, float)
        return not self.prunes or self._number(patches) >= patches

    def settings(self, patches: int, crops: int = 1) -> Settings:
        """The settings for a picture of crops of so many patches. A share is rounded; at least one token is kept."""
        choice = patches * crops if self.pruning.budget_per == IMAGE else patches
        return replace(self.pruning, visual_token_num=self._number(choice))

    def _number(self, patches: int) -> int:
        if isinstance(self.visual_token_num, float):
            return max(1, math.floor(self.visual_token_num * patches + 0.5))
        return self.visual_token_num
