"""How many visual tokens a pruned model keeps: a number of each crop, or a share of its patches."""

from dataclasses import asdict, dataclass, replace

from llava.errors import InputError
from llava.integrations.transformers.hosts.base import Host
from llava.integrations.transformers.question import READ
from llava.pruning import Settings
from llava.pruning.settings import BUDGETS_PER, CROP, IMAGE, number_of_share, pop_settings

VIDEO = "video"  # of `budget_per`: all frames of a video together, and an image's crops each for itself

_REFUSED = {  # what a method declares, and why transformers' models cannot have it then
    "merges": "merges patches, so that they have no places among the placeholders of transformers' models",
    "in_decoder": "drops tokens inside the language model, which transformers' models do not let it do",
    "blind": "shows no picture, but the prompt of transformers' models has its placeholders: ask without one",
}


@dataclass(frozen=True)
class Budget:
    """The settings of a call.

    Attributes:
        settings: with the number of visual tokens, 1 where that is a share; None keeps all.
        share: of the patches, a float in (0, 1]; None where it is a number.
        per_video: whether the frames of a video share the budget; `settings` are those of images then.

    Raises ValueError for an invalid value; the message names the setting. InputError for a method that merges
    patches, prunes inside the language model or needs a text tower.
    """

    settings: Settings
    share: float | None = None
    per_video: bool = False

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise InputError(f"visual_token_num must be an integer or a share in (0, 1], got {self.share!r}")
        method, name = self.settings.method, self.settings.pruning_method
        for fact, why in _REFUSED.items():
            if getattr(method, fact):
                raise InputError(f"the pruning method {name} {why}")
        if others := set(method.needs) - set(READ):
            raise InputError(
                f"the pruning method {name} compares the question with patches by the text tower that was trained with "
                f"the vision tower ({min(others)}), which the checkpoints of transformers' models do not have"
            )
        if self.per_video:
            replace(self.settings, budget_per=IMAGE)  # which refuses a method that cannot choose so

    @classmethod
    def from_options(cls, visual_token_num: int | float | None, **others) -> "Budget":
        """A budget; `others` are the other settings of `Settings`, whose `budget_per` may also be "video"."""
        per = others.get("budget_per", CROP)
        if per not in (*BUDGETS_PER, VIDEO):
            raise InputError(f"budget_per must be {', '.join(BUDGETS_PER)} or {VIDEO}, got {per!r}")
        others |= {"budget_per": CROP if per == VIDEO else per}
        if isinstance(visual_token_num, float):
            return cls(Settings(1, **others), visual_token_num, per == VIDEO)
        return cls(Settings(visual_token_num, **others), None, per == VIDEO)

    def changed_by(self, options: dict) -> "Budget":
        """This budget with the settings among a call's keyword arguments, which are removed from them."""
        own = asdict(self.settings)
        if self.share is not None:
            own["visual_token_num"] = self.share
        if self.per_video:
            own["budget_per"] = VIDEO
        return Budget.from_options(**own | pop_settings(options))

    def check(self, host: Host) -> None:
        """Raise InputError where a host cannot have it."""
        host.check(self.settings)
        if self.per_video and self.prunes and not host.takes_videos:
            raise InputError(f"budget_per: {host.models[0]} takes no videos that are known as such: T counts per crop")

    @property
    def prunes(self) -> bool:
        """Whether there is a budget and a method that heeds it."""
        return self.settings.prunes

    def keeps_all_of(self, patches: int) -> bool:
        """Whether crops of so many patches, and smaller ones, are known to lose none."""
        if self.prunes and (self.per_video or self.settings.budget_per == IMAGE):
            return self.share == 1
        return self.settings_for(patches).kept(patches) == patches

    def settings_for(self, patches: int, crops: int = 1, is_video: bool = False) -> Settings:
        """The settings for a picture of crops of so many patches. A share is rounded; at least one token is kept."""
        own = replace(self.settings, budget_per=IMAGE) if self.per_video and is_video else self.settings
        if self.share is None:
            return own
        choice = patches * crops if own.budget_per == IMAGE else patches
        return replace(own, visual_token_num=number_of_share(self.share, choice))
