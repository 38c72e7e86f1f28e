"""The model families, one file each: see `base.Family` for what such a file defines as `FAMILY`.

A new family is a new file here; nothing else names it.
"""

import sys
from functools import cache

from llava.model.families.base import Family
from llava.pruning.method import discover


@cache
def known_families() -> dict[str, Family]:
    """Each family by the name of its class and by what published configs say as `model_type`.

    Raises ValueError for a name that two files claim.
    """
    return discover(sys.modules[__name__], "FAMILY", lambda family: (family.causal_lm.__name__, *family.model_types))


FAMILIES: tuple[Family, ...] = tuple(dict.fromkeys(known_families().values()))


def find_family(architecture: str | None, model_type: str | None) -> Family | None:
    """The family of a LLaVA checkpoint's config, by the name of its class or else its `model_type`."""
    known = known_families()
    return known.get(architecture) or known.get(model_type)


def find_trained_family(architecture: str | None, model_type: str | None) -> Family | None:
    """The family that training makes of a language model of this `model_type`, or goes on with from a LLaVA."""
    trained = [family for family in FAMILIES if family.language_models]
    for family in trained:
        if model_type in family.language_models or architecture == family.causal_lm.__name__:
            return family
    return None


def conv_mode_of(model_name: str, model_type: str | None = None) -> str:
    """The prompt template of a checkpoint, by its config's `model_type` and its name; by the name alone if None."""
    family = find_family(None, model_type)
    if family is not None:
        return family.conv_mode_of(model_name)
    named = [pair for family in FAMILIES for pair in family.named_conv_modes]
    default = find_family(None, "llava").conv_mode
    return next((mode for part, mode in named if part in model_name.lower()), default)
