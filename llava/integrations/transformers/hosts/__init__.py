"""The hosts, one file each: a file of this folder that defines `HOST` makes its models known (see `base`)."""

import sys
from functools import cache

from transformers import PreTrainedModel

from llava.errors import InputError
from llava.integrations.transformers.hosts.base import Host
from llava.pruning.method import discover

_CROSS = "its language model attends to pictures from beside the prompt, where they have no tokens"
_RESAMPLED = "its tokens are made of all patches by learned queries, and are no patches"
_PIXELS = "it has no vision tower: its language model reads the pixels"
_CODES = "its pictures are words of a codebook, among which there is no attention yet"
_REFUSED = {
    "AriaForConditionalGeneration": _RESAMPLED,
    "Blip2ForConditionalGeneration": _RESAMPLED,
    "ChameleonForConditionalGeneration": _CODES,
    "Emu3ForConditionalGeneration": _CODES,
    "Florence2ForConditionalGeneration": "it is an encoder and a decoder, and the encoder has the pictures",
    "FuyuForCausalLM": _PIXELS,
    "Gemma3nForConditionalGeneration": "its tower is convolutional, and no attention says which tokens are important",
    "Gemma4UnifiedForConditionalGeneration": _PIXELS,
    "Idefics2ForConditionalGeneration": _RESAMPLED,
    "IdeficsForVisionText2Text": _CROSS,
    "InstructBlipForConditionalGeneration": _RESAMPLED,
    "InstructBlipVideoForConditionalGeneration": _RESAMPLED,
    "Kosmos2ForConditionalGeneration": _RESAMPLED,
    "Kosmos2_5ForConditionalGeneration": _RESAMPLED,
    "MllamaForConditionalGeneration": _CROSS,
}


@cache
def known_hosts() -> dict[str, Host]:
    """The host of each model class, by the class's name. Raises ValueError for a class that two files claim."""
    return discover(sys.modules[__name__], "HOST", lambda host: host.models)


def find_host(model: PreTrainedModel) -> Host:
    """The host of a model.

    Raises InputError for another model, with the reason or with the list of those known, and for a wrapper of peft
    around one.
    """
    known = known_hosts()
    for cls in type(model).__mro__:
        if cls.__module__.startswith("transformers."):
            if cls.__name__ in known:
                return known[cls.__name__]
            if cls.__name__ in _REFUSED:
                raise InputError(f"{type(model).__name__} cannot be pruned: {_REFUSED[cls.__name__]}")
    if callable(base := getattr(model, "get_base_model", None)) and base() is not model:  # of peft
        find_host(base())
        raise InputError(f"{type(model).__name__} cannot be pruned, but what its get_base_model() gives can")
    raise InputError(f"{type(model).__name__} cannot be pruned; these can: {', '.join(sorted(known))}")
