"""How a pruning method is found: by name, file or module.

A method is an object that declares facts about itself and has its own settings as fields:

    @dataclass(frozen=True)
    class Mine(Method):
        needs = ("word_embeds",)
        temperature: float = 0.02

        def select(self, views, settings):
            return views.keep(...)

    METHOD = Mine()

Each file of `llava.pruning.methods` defines one as `METHOD` and is known by the file's name. A method from elsewhere is
the path of a `.py` file or an importable `package.module`, with a `METHOD` or simply a function

    select(views: Views, settings: Settings) -> VisualTokens | MergedTokens

This file does not import torch.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import pkgutil
import threading
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from llava.errors import one_line
from llava.pruning.errors import PruningError
from llava.pruning.guest import load_guest, named
from llava.pruning.interface import FACTS, Method
from llava.pruning.interface import Wrapper as Wrapper  # where users' methods may import it from

VISPRUNER, NONE = "vispruner", "none"


def discover(package: ModuleType, attribute: str, keys: Callable[[Any], Iterable[str]]) -> dict[str, Any]:
    """What the files of a package define as `attribute`, by the keys that `keys` gives; files without it are helpers.

    Raises ValueError, naming both files, where two claim the same key.
    """
    found: dict[str, Any] = {}
    homes: dict[str, str] = {}
    for file in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{file.name}")
        if not hasattr(module, attribute):
            continue
        for key in keys(getattr(module, attribute)):
            if key in homes:
                raise ValueError(f"{homes[key]}.py and {file.name}.py of {package.__name__} are both for {key!r}")
            found[key], homes[key] = getattr(module, attribute), file.name
    return found


_FILES = sorted(file.name for file in pkgutil.iter_modules([str(Path(__file__).with_name("methods"))]))
_PARSING = threading.Lock()  # where two threads parse at once, Python 3.11 raises SystemError
METHOD_NAMES = tuple(dict.fromkeys((VISPRUNER, NONE, *_FILES)))


def list_methods(**facts) -> list[str]:
    """The names of the built-in methods, or of those with these facts: `list_methods(in_decoder=False, needs=())`."""
    if unknown := facts.keys() - set(FACTS):
        raise TypeError(f"a method declares no {min(unknown)!r}: {', '.join(FACTS)}")
    return [
        name for name in METHOD_NAMES if all(getattr(load_method(name), fact) == value for fact, value in facts.items())
    ]


def check_pruning_method(name: str) -> None:
    """Raise PruningError unless `name` is a method's name, an existing `.py` file or a module that can be found."""
    if name not in METHOD_NAMES:
        _locate(name)


def _locate(name: str) -> tuple[Path, str]:
    """The source of a user's method, and the package that it is in. Raises PruningError as `check_pruning_method`."""
    if isinstance(name, str) and name.endswith(".py"):
        if not Path(name).is_file():
            raise PruningError(f"pruning_method: there is no file {name}")
        return Path(name).absolute(), ""
    spec = _find_spec(name) if isinstance(name, str) and "." in name else None
    if spec is None:
        known = ", ".join(METHOD_NAMES)
        raise PruningError(f"pruning_method must be one of {known}, a .py file or a package.module, got {name!r}")
    if not spec.has_location or not spec.origin.endswith(".py"):
        raise PruningError(f"pruning_method: the module {name} is no Python file")
    return Path(spec.origin), spec.parent


def _find_spec(module: str) -> ModuleSpec | None:
    """Where a module is, whose package is imported; None if there is none."""
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    package = module.rpartition(".")[0]
    with named(module, what=" cannot be imported"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            if f"{package}.".startswith(f"{error.name}."):
                return None
            raise
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):  # of a module in what is no package
        return None


def method_label(name: str) -> str:
    """A short name for folders and tables: `divprune`, or `mine` of path/to/mine.py and of package.mine."""
    if name in METHOD_NAMES:
        return name
    return Path(name).stem if name.endswith(".py") else name.rpartition(".")[2]


def method_summary(name: str) -> str:
    """The first line of what a method's file says of itself; empty where it says nothing, or cannot be read."""
    own = Path(__file__).with_name("methods") / f"{name}.py"
    try:
        source = _read(name, own if name in METHOD_NAMES else _locate(name)[0])
        with _PARSING:
            return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    except (PruningError, SyntaxError, ValueError):
        return ""


def method_file(name: str) -> Path | None:
    """The source of a method that is not one of this package's, None for those that are."""
    return None if name in METHOD_NAMES else _locate(name)[0].resolve()


def method_digest(name: str) -> str | None:
    """What says whether a user's method is another one: of its source as it is now; None for this package's own."""
    if name in METHOD_NAMES:
        return None
    return hashlib.sha256(_read(name, _locate(name)[0])).hexdigest()[:16]


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PruningError(f"the pruning method {name} cannot be read: {one_line(error)}") from error


_LOADED: dict[tuple, Method] = {}  # users' methods, by what was read and where


def load_method(name: str) -> Method:
    """The method of a name, a file or a module; an edited file is read again.

    Raises PruningError, naming the method and the cause, as `check_pruning_method` does, and for a file that cannot be
    imported or defines no method.
    """
    if name in METHOD_NAMES:
        return importlib.import_module(f"llava.pruning.methods.{name}").METHOD
    path, package = _locate(name)
    key = name, path, path.resolve(), _read(name, path)
    if key not in _LOADED:
        _LOADED[key] = load_guest(name, path, package, key[-1])
    return _LOADED[key]
