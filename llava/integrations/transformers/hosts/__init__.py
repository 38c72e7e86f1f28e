"""The hosts, one file each: a file of this folder that defines `HOST` makes its models known (see `base`)."""

import pkgutil
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from transformers import PreTrainedModel

from llava.errors import InputError
from llava.integrations.transformers.hosts.base import Host


@lru_cache
def known_hosts() -> dict[str, Host]:
    """The host of each model class, by the class's name."""
    modules = [import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return {model: module.HOST for module in modules if hasattr(module, "HOST") for model in module.HOST.models}


def find_host(model: PreTrainedModel) -> Host:
    """The host of a model. Raises InputError, with the list of those known, for another model."""
    known = known_hosts()
    for cls in type(model).__mro__:
        if cls.__name__ in known and cls.__module__.startswith("transformers."):
            return known[cls.__name__]
    raise InputError(f"{type(model).__name__} cannot be pruned; these can: {', '.join(sorted(known))}")
