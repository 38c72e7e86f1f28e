"""The pruning settings of a request: from `mm_processor_kwargs` to a row of integers for the model, and back.

vLLM hands a model tensors alone, and rounds those of floating numbers to the model's dtype: a ratio of 0.8 would keep
other patches in float16. So a setting that is no integer travels as the bits of a float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig

from llava.errors import InputError, one_line
from llava.pruning import (
    METHOD_NAMES,
    MergedTokens,
    PruningError,
    Settings,
    Views,
    VisualTokens,
    keep_patches,
    load_method,
    select,
)
from llava.pruning.method import method_digest
from llava.pruning.settings import DEFAULTS, IMAGE, NAMES, number_of_share

_ABSENT = -(2**63)  # stands for None
_OF_SERVER = -1  # a method that is no name of the registry
_LARGEST = 2**63 - 1
_ALIKE = 0.75  # of a name: it is a setting, spelt wrongly
_REFUSED = {  # what a method declares, and why it cannot work in vLLM then
    "needs": "it chooses by the question, which vLLM keeps from what encodes the pictures",
    "in_decoder": "it drops visual tokens inside the language model, which is vLLM's own",
    "blind": "it shows no picture, and vLLM has a placeholder for each: ask without one",
}
_FIXED = {  # settings that cannot have another value than the default's, and why
    "budget_per": "vLLM must know the visual tokens of each picture before; it takes 'crop' alone",
    "positions": "vLLM counts them by the placeholders that are left; it takes 'renumbered' alone",
}


class Tower(NamedTuple):
    """What a tower in vLLM gives the methods: the names of its views, whether tokens may be merged, and whether crops
    of a picture may share a budget.
    """

    views: tuple[str, ...]
    merges: bool
    shares_budgets: bool = False


LLAVA = Tower(
    ("importance", "hidden_states", "keys", "received", "object_received", "grid", "pixels", "projected"), True
)
_FRAMES = Tower(("importance", "grid", "pixels", "projected"), merges=False)
_CROPS = _FRAMES._replace(shares_budgets=True)
_TOWERS = {  # how the name of an architecture ends
    "LlavaForConditionalGeneration": LLAVA,
    "InternVLForConditionalGeneration": _CROPS,
    "LlavaOnevisionForConditionalGeneration": _CROPS,
    "LlavaNextForConditionalGeneration": LLAVA._replace(merges=False, shares_budgets=True),
}


def tower_of(config: PreTrainedConfig) -> Tower:
    """What the tower of a checkpoint gives the methods that vLLM is to prune."""
    name = config.architectures[0]
    return next((tower for end, tower in _TOWERS.items() if name.endswith(end)), _FRAMES)


@dataclass(frozen=True)
class ServedBudget:
    """The settings of a request.

    Attributes:
        settings: with the number of visual tokens, 1 where that is a share; None keeps all.
        share: of the patches of a crop or frame, a float in (0, 1]; None where it is a number.
    """

    settings: Settings
    share: float | None = None

    def settings_for(self, patches: int, crops: int = 1) -> Settings:
        """The settings for a picture of so many crops of so many patches."""
        if self.share is None:
            return self.settings
        choice = patches * crops if self.settings.budget_per == IMAGE else patches
        return replace(self.settings, visual_token_num=number_of_share(self.share, choice))


def own_settings(options: Mapping[str, object] | None) -> dict[str, object]:
    """The pruning settings among a host's `mm_processor_kwargs`; the others are its processor's.

    Raises InputError for one that seems to be spelt wrongly, or stands inside another option, where no one reads it.
    """
    for name, value in (options or {}).items():
        if name not in NAMES and (alike := get_close_matches(name, NAMES, 1, _ALIKE)):
            raise InputError(f"mm_processor_kwargs has {name!r}: the setting is {alike[0]}")
        if isinstance(value, Mapping) and (inside := value.keys() & set(NAMES)):
            raise InputError(f"mm_processor_kwargs has {min(inside)} inside {name}: it stands beside it")
    return {name: value for name, value in (options or {}).items() if name in NAMES}


def read_budget(
    given: Mapping[str, object], of_server: Mapping[str, object] | None = None, tower: Tower = LLAVA
) -> ServedBudget:
    """The budget that a request's `mm_processor_kwargs` name over those of the server.

    A request may choose among the methods of `llava.pruning`; a file or module, which would run in the server, only
    the server's own settings may name.

    Raises InputError for an invalid value or an unknown name, and for a method that does not choose as many visual
    tokens as it is asked for from what the tower says of a picture; the message names the setting.
    """
    of_server = of_server or {}
    if unknown := (given.keys() | of_server.keys()) - set(NAMES):
        known = ", ".join(NAMES)
        raise InputError(f"mm_processor_kwargs has {min(map(str, unknown))!r}: it takes {known}")
    values = {**of_server, **given}
    method = values.get("pruning_method", Settings.pruning_method)
    if method not in METHOD_NAMES and method != of_server.get("pruning_method"):
        raise InputError(f"pruning_method of a request must be one of {', '.join(METHOD_NAMES)}, got {method!r}")
    number = values.pop("visual_token_num", None)
    share, number = (number, 1) if isinstance(number, float) else (None, number)
    if share is not None and not 0 < share <= 1:
        raise InputError(f"visual_token_num must be an integer or a share in (0, 1], got {share!r}")
    try:
        settings = Settings(number, **values)
    except ValueError as error:
        raise InputError(str(error)) from error
    for name, why in _FIXED.items():
        if getattr(settings, name) != DEFAULTS[name] and not (name == "budget_per" and tower.shares_budgets):
            raise InputError(f"{name}: {why}")
    if cause := _why_not(method, method_digest(method), tower, settings.budget_per):
        raise InputError(f"the pruning method {method} cannot work in vLLM: {cause}")
    for name, value in vars(settings).items():
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise InputError(f"{name} must fit into 64 bits, got {value}")
    return ServedBudget(settings, share)


@lru_cache
def _why_not(method: str, digest: str | None, tower: Tower, budget_per: str) -> str | None:
    """Why a method of this digest cannot choose before the language model, found by trying it; None if it can.

    What it raises inside vLLM's model would end the server.
    """
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    drawn = {
        "importance": draw(2, 64).softmax(dim=1),
        "hidden_states": draw(2, 65, 8),
        "keys": draw(2, 65, 4),
        "received": draw(2, 64).softmax(dim=1),
        "object_received": draw(2, 64).softmax(dim=1),
        "grid": torch.tensor([[8, 8]] * 2),
        "pixels": draw(2, 3, 112, 112),
        "projected": draw(2, 64, 12),
    }
    views = Views(draw(2, 64, 8), **{name: drawn[name] for name in tower.views})
    settings = Settings(16, pruning_method=method, budget_per=budget_per)
    try:
        declared = load_method(method)
        for fact, why in _REFUSED.items():
            if getattr(declared, fact):
                return why
        chosen = select(views, settings)
        rows, number, _ = chosen.tokens.shape
    except Exception as error:  # whatever the user's code raises
        return one_line(error)
    if not tower.merges and not _are_patches(chosen, views):
        return "it gives tokens that are no patch's, which have no places among this model's"
    wanted = settings.kept(64, 2) // rows
    return None if number == wanted else f"it gives {number} visual tokens of a crop where {wanted} are wanted"


def _are_patches(chosen: VisualTokens | MergedTokens, views: Views) -> bool:
    """Whether tokens are the features of patches, as they were."""
    if not chosen.has_places:
        return False
    features = views.features.reshape(len(chosen.patches), -1, views.features.shape[-1])  # of all crops in one list
    return torch.equal(chosen.tokens, keep_patches(features, chosen.patches))


def choose(views: Views, settings: Settings) -> VisualTokens | MergedTokens:
    """What a method chooses of K crops of N patches. Raises PruningError for another number than was counted."""
    crops, patches, _ = views.features.shape
    chosen = select(views, settings)
    rows, number, _ = chosen.tokens.shape
    if rows * number != (expected := settings.kept(patches, crops)):  # the prompt has so many placeholders
        raise PruningError(
            f"the pruning method {settings.pruning_method} must return {expected // rows} visual tokens of each crop "
            f"for vLLM, not {number}"
        )
    return chosen


def pack(settings: Settings) -> torch.LongTensor:
    """(settings,) int64: integers as they are, numbers as the bits of a float64, names as their place among all."""
    return torch.tensor([_to_integer(own, getattr(settings, own.name)) for own in fields(Settings)])


def unpack(row: torch.LongTensor, of_server: Mapping[str, object] | None = None) -> Settings:
    """The settings of a row that `pack` made; a method that the registry does not name is the server's."""
    values = {own.name: _from_integer(own, number) for own, number in zip(fields(Settings), row.tolist(), strict=True)}
    if values["pruning_method"] is None:
        values["pruning_method"] = of_server["pruning_method"]
    return Settings(**values)


def _names_of(own) -> tuple[str, ...]:
    """The values of a setting that is a name."""
    return METHOD_NAMES if own.name == "pruning_method" else own.metadata["choices"]


def _to_integer(own, value: Any) -> int:
    if value is None:
        return _ABSENT
    if own.metadata["kind"] is float:
        return int(torch.tensor(float(value), dtype=torch.float64).view(torch.int64))
    if own.metadata["kind"] is str:
        names = _names_of(own)
        return names.index(value) if value in names else _OF_SERVER
    return value


def _from_integer(own, number: int) -> Any:
    if own.metadata["kind"] is float:
        return torch.tensor(number).view(torch.float64).item()
    if own.metadata["kind"] is str:
        return None if number == _OF_SERVER else _names_of(own)[number]
    return None if number == _ABSENT else number
