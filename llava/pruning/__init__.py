"""The pruning methods: which visual tokens to keep of what a vision tower saw.

A leaf: tensors in, tensors out, no import from the rest of `llava`. `base` has what every method takes and returns,
`registry` finds a method by name, and each method is one file. Names are imported when first used, since torch takes
seconds to load and options need only the methods' names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava.pruning.base import MergedTokens, PruningSettings, Views, VisualTokens, keep_patches
    from llava.pruning.errors import PruningError
    from llava.pruning.registry import METHOD_NAMES, load_method, method_label
    from llava.pruning.selection import select
    from llava.pruning.vispruner import select_visual_tokens

_HOMES = {
    "MergedTokens": "base",
    "PruningError": "errors",
    "PruningSettings": "base",
    "Views": "base",
    "VisualTokens": "base",
    "keep_patches": "base",
    "METHOD_NAMES": "registry",
    "load_method": "registry",
    "method_label": "registry",
    "select": "selection",
    "select_visual_tokens": "vispruner",
}
__all__ = [
    "METHOD_NAMES",
    "MergedTokens",
    "PruningError",
    "PruningSettings",
    "Views",
    "VisualTokens",
    "keep_patches",
    "load_method",
    "method_label",
    "select",
    "select_visual_tokens",
]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
