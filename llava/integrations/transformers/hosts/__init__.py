"""The hosts, one file each: a file of this folder that defines `HOST` makes its models known (see `base`)."""

import sys
from functools import cache

from transformers import PreTrainedModel

from llava.errors import InputError
from llava.integrations.transformers.hosts.base import Host
from llava.pruning.method import discover


@cache
def known_hosts() -> dict[str, Host]:
    """The host of each model class, by the class's name. Raises ValueError for a class that two files claim."""
    return discover(sys.modules[__name__], "HOST", lambda host: host.models)


def find_host(model: PreTrainedModel) -> Host:
    """The host of a model.

    Raises InputError for another model, with the list of those known, and for a wrapper of peft around one.
    """
    known = known_hosts()
    for cls in type(model).__mro__:
        if cls.__name__ in known and cls.__module__.startswith("transformers."):
            return known[cls.__name__]
    if callable(base := getattr(model, "get_base_model", None)) and base() is not model:  # of peft
        find_host(base())
        raise InputError(f"{type(model).__name__} cannot be pruned, but what its get_base_model() gives can")
    raise InputError(f"{type(model).__name__} cannot be pruned; these can: {', '.join(sorted(known))}")
