"""How many visual tokens a pruned model keeps: a number of each crop, or a share of its patches."""

import math
from dataclasses import asdict, dataclass, replace

from llava.errors import InputError
from llava.pruning import Settings
from llava.pruning.settings import IMAGE, pop_settings

_REFUSED = {  # what a method declares, and why transformers' models cannot have it then
    "needs": "chooses by the question, which transformers' models do not tell apart from the rest of a prompt",
    "merges": "merges patches, so that they have no places among the placeholders of transformers' models",
    "in_decoder": "drops tokens inside the language model, which transformers' models do not let it do",
}


@dataclass(frozen=True)
class Budget:
    """The settings of a call.

    Attributes:
        settings: with the number of visual tokens, 1 where that is a share; None keeps all.
        share: of the patches, a float in (0, 1]; None where it is a number.

    Raises ValueError for an invalid value; the message names the setting. InputError for a method that merges
    patches, prunes inside the language model or chooses by the question.
    """

    settings: Settings
    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise InputError(f"visual_token_num must be an integer or a share in (0, 1], got {self.share!r}")
        for fact, why in _REFUSED.items():
            if getattr(self.settings.method, fact):
                raise InputError(f"the pruning method {self.settings.pruning_method} {why}")

    @classmethod
    def from_options(cls, visual_token_num: int | float | None, **others) -> "Budget":
        """A budget; `others` are the other settings of `Settings`."""
        if isinstance(visual_token_num, float):
            return cls(Settings(1, **others), visual_token_num)
        return cls(Settings(visual_token_num, **others))

    def changed_by(self, options: dict) -> "Budget":
        """This budget with the settings among a call's keyword arguments, which are removed from them."""
        number = self.settings.visual_token_num if self.share is None else self.share
        return Budget.from_options(**asdict(self.settings) | {"visual_token_num": number} | pop_settings(options))

    @property
    def prunes(self) -> bool:
        """Whether there is a budget and a method that heeds it."""
        return self.settings.prunes

    def keeps_all_of(self, patches: int) -> bool:
        """Whether crops of so many patches, and smaller ones, are known to lose none."""
        if self.prunes and self.settings.budget_per == IMAGE:
            return self.share == 1
        return self.settings_for(patches).kept(patches) == patches

    def settings_for(self, patches: int, crops: int = 1) -> Settings:
        """The settings for a picture of crops of so many patches. A share is rounded; at least one token is kept."""
        if self.share is None:
            return self.settings
        choice = patches * crops if self.settings.budget_per == IMAGE else patches
        return replace(self.settings, visual_token_num=max(1, math.floor(self.share * choice + 0.5)))
