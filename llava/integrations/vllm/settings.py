"""The pruning settings of a request: from `mm_processor_kwargs` to a row of integers for the model, and back.

vLLM hands a model tensors alone, and rounds those of floating numbers to the model's dtype: a ratio of 0.8 would keep
other patches in float16. So a setting that is no integer travels as the bits of a float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial

import torch

from llava.pruning import METHOD_NAMES, PruningSettings, Views, load_method, select
from llava.utils import InputError, one_line

SETTING_NAMES = ("visual_token_num", "important_ratio", "pruning_method", "pruning_seed")
_KEEP_ALL = 0
_OF_SERVER = -1  # a method that is no name of the registry
_LARGEST = 2**63 - 1


def read_settings(given: Mapping[str, object], of_server: Mapping[str, object] | None = None) -> PruningSettings:
    """The settings that a request's `mm_processor_kwargs` name over those of the server.

    A request may choose among the methods of `llava.pruning`; a file or module, which would run in the server, only
    the server's own settings may name.

    Raises InputError, naming the setting, for a value that is none, an unknown name, and a method that does not choose
    as many visual tokens as it is asked for, from what a tower sees of a picture.
    """
    of_server = of_server or {}
    if unknown := (given.keys() | of_server.keys()) - set(SETTING_NAMES):
        known = ", ".join(SETTING_NAMES)
        raise InputError(f"mm_processor_kwargs has {min(map(str, unknown))!r}: it takes {known}")
    values = {**of_server, **given}
    method = values.get("pruning_method", PruningSettings.pruning_method)
    if method not in METHOD_NAMES and method != of_server.get("pruning_method"):
        raise InputError(f"pruning_method of a request must be one of {', '.join(METHOD_NAMES)}, got {method!r}")
    try:
        settings = PruningSettings(**values)
    except ValueError as error:
        raise InputError(str(error)) from error
    if cause := _why_not(method):
        raise InputError(f"the pruning method {method} cannot work in vLLM: {cause}")
    if abs(settings.pruning_seed) > _LARGEST:
        raise InputError(f"pruning_seed must fit into 64 bits, got {settings.pruning_seed}")
    return settings


@lru_cache
def _why_not(method: str) -> str | None:
    """Why a method cannot choose before the language model, found by trying it; None if it can.

    What it raises inside vLLM's model would end the server.
    """
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    views = Views(
        draw(2, 64, 8),
        importance=draw(2, 64).softmax(dim=1),
        hidden_states=draw(2, 65, 8),
        keys=draw(2, 65, 4),
        pixels=draw(2, 3, 112, 112),
        projected=draw(2, 64, 12),
    )
    settings = PruningSettings(16, pruning_method=method)
    try:
        if not hasattr(load_method(method), "select"):
            return "it drops visual tokens inside the language model, which is vLLM's own"
        number = select(views, settings).tokens.shape[1]
    except Exception as error:  # whatever the user's code raises
        return one_line(error)
    wanted = settings.kept(64)
    return None if number == wanted else f"it gives {number} visual tokens of a crop where {wanted} are wanted"


def pack(settings: PruningSettings) -> torch.LongTensor:
    """(4,) int64: the budget, the bits of the ratio, the method and the seed."""
    budget, method = settings.visual_token_num, settings.pruning_method
    ratio = torch.tensor(float(settings.important_ratio), dtype=torch.float64).view(torch.int64)
    return torch.tensor(
        [
            _KEEP_ALL if budget is None else min(budget, _LARGEST),
            int(ratio),
            METHOD_NAMES.index(method) if method in METHOD_NAMES else _OF_SERVER,
            settings.pruning_seed,
        ]
    )


def unpack(row: torch.LongTensor, of_server: Mapping[str, object] | None = None) -> PruningSettings:
    """The settings of a row that `pack` made; a method that the registry does not name is the server's."""
    budget, _, method, seed = row.tolist()
    return PruningSettings(
        visual_token_num=None if budget == _KEEP_ALL else budget,
        important_ratio=row[1].view(torch.float64).item(),
        pruning_method=of_server["pruning_method"] if method == _OF_SERVER else METHOD_NAMES[method],
        pruning_seed=seed,
    )
