"""What a pruning method is, and how one is found by name, file or module.

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

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from llava.pruning.errors import PruningError
from llava.pruning.tokens import MergedTokens, VisualTokens
from llava.pruning.views import QUESTION_VIEWS, Views

if TYPE_CHECKING:
    import torch

VISPRUNER, NONE = "vispruner", "none"
FACTS = ("needs", "reads_ratio", "draws_at_random", "merges", "in_decoder", "each_crop_alone", "one_image_at_a_time")


class Method:
    """A way to choose visual tokens. A subclass declares what differs from the defaults here.

    Attributes:
        needs: the views of the question that it reads (`views.QUESTION_VIEWS`); what it keeps is then for one question.
        reads_ratio: whether it uses `important_ratio`.
        draws_at_random: whether it uses `pruning_seed`.
        merges: whether it returns `MergedTokens`, which have no places in the picture.
        in_decoder: whether it drops tokens inside the language model, by `prune_decoder` in place of `select`.
        each_crop_alone: whether it cannot choose among all crops of an image as among one list of patches.
        one_image_at_a_time: whether a call of `select` must be about one image.
    """

    needs: tuple[str, ...] = ()
    reads_ratio: bool = False
    draws_at_random: bool = False
    merges: bool = False
    in_decoder: bool = False
    each_crop_alone: bool = False

    @property
    def one_image_at_a_time(self) -> bool:
        return bool(self.needs)

    def select(self, views: Views, settings: Any) -> VisualTokens | MergedTokens:
        """The visual tokens of K crops, for `Settings` that prune; all of them for a method in the decoder."""
        return views.keep_all()

    def important(self, views: Views, settings: Any) -> torch.LongTensor | None:
        """(K, number) int64: the kept patches that were chosen by importance; None if there are no such."""
        return None


@dataclass(frozen=True)
class Wrapper(Method):
    """A method around another one. It shares that one's facts unless it overrides them."""

    method: Method


for _fact in FACTS:
    setattr(Wrapper, _fact, property(lambda self, fact=_fact: getattr(self.method, fact)))


@dataclass(frozen=True)
class PerImage(Wrapper):
    """One budget for all crops of an image: the method is given the patches of all crops as one list.

    Raises PruningError, with the method's `name`, for a method that cannot choose so.
    """

    name: str
    one_image_at_a_time = True

    def __post_init__(self) -> None:
        if self.in_decoder or self.each_crop_alone:
            raise PruningError(f"budget_per: {self.name} cannot choose among all crops of an image")

    def select(self, views: Views, settings: Any) -> VisualTokens | MergedTokens:
        return self.method.select(self._together(views), settings)

    def important(self, views: Views, settings: Any) -> torch.LongTensor | None:
        return self.method.important(self._together(views), settings)

    def _together(self, views: Views) -> Views:
        return views.together() if len(views.features) > 1 else views


class _FromModule(Method):
    """A user's module with a plain function. It declares nothing, so it counts as using every setting."""

    reads_ratio = draws_at_random = True

    def __init__(self, module: ModuleType) -> None:
        self.needs = tuple(getattr(module, "NEEDS", ()))
        self.each_crop_alone = getattr(module, "EACH_CROP_ALONE", False)
        self.in_decoder = not callable(getattr(module, "select", None))
        if self.in_decoder:
            self.prune_decoder, self.full_layers = module.prune_decoder, module.FULL_LAYERS
        else:
            self.select = module.select


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
METHOD_NAMES = tuple(dict.fromkeys((VISPRUNER, NONE, *_FILES)))


def list_methods(**facts) -> list[str]:
    """The names of the built-in methods, or of those with these facts: `list_methods(in_decoder=False, needs=())`."""
    if unknown := facts.keys() - set(FACTS):
        raise TypeError(f"a method declares no {min(unknown)!r}: {', '.join(FACTS)}")
    return [
        name for name in METHOD_NAMES if all(getattr(load_method(name), fact) == value for fact, value in facts.items())
    ]


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


_LOADED: dict[tuple, Method] = {}  # users' methods, by what was read


def load_method(name: str) -> Method:
    """The method of a name, a file or a module; an edited file is read again.

    Raises ValueError as `check_pruning_method` does, and PruningError, naming the file and the cause, for a file that
    cannot be imported or defines no method.
    """
    check_pruning_method(name)
    if name in METHOD_NAMES:
        return importlib.import_module(f"llava.pruning.methods.{name}").METHOD
    file = method_file(name)
    key = name, file, file.read_bytes() if file else b""
    if key not in _LOADED:
        _LOADED[key] = _load_foreign(name)
    return _LOADED[key]


def _load_foreign(name: str) -> Method:
    """The method of a user's file or module."""
    try:
        module = _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except Exception as error:  # a user's code may raise anything
        line = " ".join(str(error).split())
        raise PruningError(f"the pruning method {name} cannot be imported: {type(error).__name__}: {line}") from error
    method = getattr(module, "METHOD", None)
    if not isinstance(method, Method):
        if not callable(getattr(module, "select", None)) and not callable(getattr(module, "prune_decoder", None)):
            raise PruningError(f"the pruning method {name} defines no function select(views, settings)")
        method = _FromModule(module)
    if not set(method.needs) <= set(QUESTION_VIEWS):
        known = ", ".join(QUESTION_VIEWS)
        raise PruningError(f"the pruning method {name}: NEEDS may have {known}, not {method.needs}")
    return method


def _import_file(path: Path) -> ModuleType:
    name = f"llava_pruning_method_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up there
    spec.loader.exec_module(module)
    return module
