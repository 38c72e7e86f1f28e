"""From a name, a file or a module to a pruning method.

A method is a module. One that chooses before the language model defines

    select(views: Views, settings: PruningSettings) -> VisualTokens | MergedTokens

and one that drops tokens inside the language model defines `prune_decoder` and `FULL_LAYERS` (see `fastv`). Each file
of this package that is not named in `_NO_METHOD` is a method, known by the file's name. A method from elsewhere is
given as the path of a `.py` file or as an importable `package.module`.
"""

import importlib
import importlib.util
import pkgutil
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from llava.pruning.errors import PruningError

VISPRUNER, NONE = "vispruner", "none"
_NO_METHOD = {
    "base",
    "cosine",
    "errors",
    "greedy",
    "greedy_cpu",
    "greedy_triton",
    "importance",
    "kv_cache",
    "registry",
    "selection",
    "duplicates",
    "duplicates_cpu",
    "duplicates_triton",
}
_BUILT_IN = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
METHOD_NAMES = tuple(dict.fromkeys((VISPRUNER, NONE, *(name for name in _BUILT_IN if name not in _NO_METHOD))))


def check_pruning_method(name: str) -> None:
    """Raise ValueError unless `name` is a method's name, an existing `.py` file or a module that can be found."""
    if name in METHOD_NAMES:
        return
    if isinstance(name, str) and name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"pruning_method: there is no file {name}")
    elif not isinstance(name, str) or "." not in name or not _can_be_found(name):
        known = ", ".join(METHOD_NAMES)
        raise ValueError(f"pruning_method must be one of {known}, a .py file or a package.module, got {name!r}")


def _can_be_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def method_label(name: str) -> str:
    """A short name for folders and tables: `divprune`, or `mine` of path/to/mine.py and of package.mine."""
    if name in METHOD_NAMES:
        return name
    return Path(name).stem if name.endswith(".py") else name.rpartition(".")[2]


def method_file(name: str) -> Path | None:
    """The source of a method that is not one of this package's, None for those that are."""
    check_pruning_method(name)
    if name in METHOD_NAMES:
        return None
    origin = name if name.endswith(".py") else importlib.util.find_spec(name).origin
    return Path(origin).resolve() if origin else None


def load_method(name: str) -> ModuleType:
    """The module of a method.

    Raises ValueError as `check_pruning_method` does, and PruningError, naming the file and the cause, for a file that
    cannot be imported or defines no method.
    """
    check_pruning_method(name)
    if name in METHOD_NAMES:
        return importlib.import_module(f"llava.pruning.{name}")
    file = method_file(name)
    return _load_foreign(name, file.stat().st_mtime_ns if file else 0)


@lru_cache
def _load_foreign(name: str, changed: int) -> ModuleType:
    """The user's module; `changed`, the file's time stamp, makes an edited file a new one."""
    try:
        module = _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except Exception as error:  # whatever the user's code raises
        line = " ".join(str(error).split())
        raise PruningError(f"the pruning method {name} cannot be imported: {type(error).__name__}: {line}") from error
    if not callable(getattr(module, "select", None)) and not callable(getattr(module, "prune_decoder", None)):
        raise PruningError(f"the pruning method {name} defines no function select(views, settings)")
    return module


def _import_file(path: Path) -> ModuleType:
    name = f"llava_pruning_method_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up there
    spec.loader.exec_module(module)
    return module
