"""The pruning methods: which of a vision tower's visual tokens to keep.

A leaf: tensors in, tensors out, no import from the rest of `llava` but its error. `settings` says how much is kept,
`views` and `tokens` are what a method takes and returns, `interface` says what one is, `method` finds one, `guest` is
around a user's, `methods` has one file each, `kernels` what they share. Names are imported when first used, since torch
takes seconds to load and options need only the methods' names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava.pruning.errors import MethodError, PruningError
    from llava.pruning.interface import Method, Wrapper
    from llava.pruning.method import METHOD_NAMES, list_methods, load_method, method_label
    from llava.pruning.methods.vispruner import select_visual_tokens
    from llava.pruning.selection import select
    from llava.pruning.settings import Settings
    from llava.pruning.tokens import MergedTokens, VisualTokens, highest, keep_patches
    from llava.pruning.views import Views

_HOMES = {
    "errors": ("MethodError", "PruningError"),
    "interface": ("Method", "Wrapper"),
    "method": ("METHOD_NAMES", "list_methods", "load_method", "method_label"),
    "methods.vispruner": ("select_visual_tokens",),
    "selection": ("select",),
    "settings": ("Settings",),
    "tokens": ("MergedTokens", "VisualTokens", "highest", "keep_patches"),
    "views": ("Views",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_FORMER = {"PruningSettings": "Settings"}  # names that users' methods may import
__all__ = [
    "METHOD_NAMES",
    "MergedTokens",
    "Method",
    "MethodError",
    "PruningError",
    "Settings",
    "Views",
    "VisualTokens",
    "Wrapper",
    "highest",
    "keep_patches",
    "list_methods",
    "load_method",
    "method_label",
    "select",
    "select_visual_tokens",
]


def __getattr__(name: str):
    own = _FORMER.get(name, name)
    if own in _HOME_OF:
        return getattr(import_module(f"{__name__}.{_HOME_OF[own]}"), own)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
