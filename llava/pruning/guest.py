"""A user's method is a guest: it is given copies, what it returns is checked, and what it raises is named.

Built-in methods are trusted: none of this is done for them. This file does not import torch, as `method` does not.

Shapes: K crops, N patches, T kept tokens, C vision channels.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import TYPE_CHECKING, Any

from llava.errors import InputError
from llava.pruning.checks import check_chosen, check_hidden, check_patches, check_values
from llava.pruning.errors import MethodError, PruningError
from llava.pruning.interface import FACTS, Method
from llava.pruning.tokens import MergedTokens, VisualTokens, keep_patches
from llava.pruning.views import QUESTION_VIEWS, VIEWS, Views

if TYPE_CHECKING:
    import torch

MOST_QUOTED = 300  # characters of a message


@contextmanager
def named(method: str, path: Path | None = None, what: str = "", function: Callable | None = None) -> Iterator[None]:
    """Around a user's code: what it raises becomes one line with the method's name and the line in its file `path`.

    `what` happened, such as " failed", to `function`, whose first line is named where it was not entered. Raises
    PruningError for what this package says, such as that a tower lacks a view, and MethodError for everything else but
    KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except InputError as error:
        kind = MethodError if isinstance(error, MethodError) else PruningError
        raise kind(f"the pruning method {method}: {_quote(error)}{_place(error, path)}") from error
    except BaseException as error:  # sys.exit is one
        said = ": ".join(filter(None, (type(error).__name__, _quote(error))))
        place = _place(error, path) or _first_line(function, path)
        raise MethodError(f"the pruning method {method}{what}: {said}{place}") from error


def _quote(error: BaseException) -> str:
    """A message in one line, not too long."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own code may fail too
        return ""
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}..."


def _place(error: BaseException, path: Path | None) -> str:
    """The line that was run last in the file `path`, or else in any that is the user's; empty if there is none."""
    if isinstance(error, SyntaxError) and error.lineno and error.filename == str(path):
        return ""  # the message has it
    ours = str(Path(__file__).parents[1])
    files = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    if path is None:
        files = [(file, line) for file, line in files if not file.startswith(("<", ours))]
    else:
        files = [(file, line) for file, line in files if file == str(path)]
    return f" (line {files[-1][1]} of {Path(files[-1][0]).name})" if files else ""


def _first_line(function: Callable | None, path: Path | None) -> str:
    code = getattr(function, "__code__", None)
    return f" (line {code.co_firstlineno} of {path.name})" if code and code.co_filename == str(path) else ""


def copied(value: Any) -> Any:
    """A tensor of its own, through which gradients flow; of what is no tensor the thing itself."""
    import torch

    return value.clone() if isinstance(value, torch.Tensor) else value


def _modes(device: str) -> Callable[[], AbstractContextManager]:
    """What gives torch the modes of now, whatever they are then: autocast, gradients, inference."""
    import torch

    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    cast = {"dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}

    @contextmanager
    def as_now() -> Iterator[None]:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients), torch.autocast(device, **cast):
            yield

    return as_now


class GuestViews(Views):
    """The views of others for a user's method: what it reads is a copy of its own, made when it is first read.

    `keep` takes the tokens from the originals, whatever was written into the copies. `kept` are the patches of every
    `keep`, whose values are checked when the method returns.
    """

    def __init__(self, shared: Views) -> None:
        as_now = _modes(shared.features.device.type)

        def copy(name: str) -> Any:
            with as_now():  # others get the view that is computed here
                value = getattr(shared, name)
            return copied(value)

        super().__init__(**shared._made(copy, VIEWS))
        self._shared, self.kept = shared, []

    def keep(self, patches: torch.LongTensor) -> VisualTokens:
        """As `Views.keep`. Raises PruningError for what is no tensor of patches, by form; see `check_chosen`."""
        features = self._shared.features
        check_patches(patches, features)
        patches = patches.sort(dim=1).values
        self.kept.append(patches)
        inside = patches.clamp(0, features.shape[1] - 1)  # on a GPU an index beyond the end would end the process
        return VisualTokens(keep_patches(features, inside), patches)

    def keep_all(self) -> VisualTokens:
        every = self._shared.keep_all()
        return VisualTokens(copied(every.tokens), copied(every.patches))


class _FromModule(Method):
    """A user's module with a plain function. It declares nothing, so it counts as using every setting."""

    reads_ratio = draws_at_random = True

    def __init__(self, module: ModuleType) -> None:
        self.needs = getattr(module, "NEEDS", ())
        self.each_crop_alone = getattr(module, "EACH_CROP_ALONE", False)
        self.in_decoder = not callable(getattr(module, "select", None))
        if self.in_decoder:
            self.prune_decoder, self.full_layers = module.prune_decoder, getattr(module, "FULL_LAYERS", None)
        else:
            self.select = module.select


class Guest(Method):
    """A user's method: it is given copies, what it returns is checked, and what it raises is named; see `guest`.

    Attributes:
        method: what the user wrote.
        name: as it was asked for.
        path: its file.

    Raises MethodError, which names it, for facts that cannot be.
    """

    one_image_at_a_time = False  # not `Method`'s property: each has the facts of its own method

    def __init__(self, method: Method, name: str, path: Path) -> None:
        self.method, self.name, self.path = method, name, path
        with named(name, path, " failed"):
            for fact in FACTS:
                setattr(self, fact, _check_fact(fact, getattr(method, fact)))
            if self.in_decoder:
                self.full_layers = layers = getattr(method, "full_layers", None)
                if not callable(getattr(method, "prune_decoder", None)):
                    raise MethodError("in the decoder it needs a function prune_decoder")
                if type(layers) is not int or layers < 0:
                    raise MethodError(f"FULL_LAYERS must be the number of layers with every token, got {layers!r}")

    def select(self, views: Views, settings: Any) -> VisualTokens | MergedTokens:
        self._must_be(in_decoder=False)
        given = GuestViews(views)
        with named(self.name, self.path, " failed", self.method.select):
            return check_chosen(self.method.select(given, settings), views, given.kept)

    def important(self, views: Views, settings: Any) -> torch.LongTensor | None:
        with named(self.name, self.path, " failed", self.method.important):
            patches = self.method.important(GuestViews(views), settings)
            if patches is None:
                return None
            check_patches(patches, views.features, least=0)
            patches = patches.sort(dim=1).values
            check_values(patches, views.features.shape[1])
            return patches

    def count(self, number: int, patches: int) -> int:
        with named(self.name, self.path, " failed", self.method.count):
            kept = self.method.count(number, patches)
            if type(kept) is not int or not 1 <= kept <= patches:
                raise MethodError(f"count must return 1 to {patches}, got {kept!r}")
            return kept

    def prune_decoder(self, decoder, inputs_embeds: torch.Tensor, **options):
        """As `FastV.prune_decoder`."""
        self._must_be(in_decoder=True)
        options = {name: copied(value) for name, value in options.items()}
        with named(self.name, self.path, " failed", self.method.prune_decoder):
            output = self.method.prune_decoder(decoder, copied(inputs_embeds), **options)
            check_hidden(output, inputs_embeds)
            return output

    def _must_be(self, in_decoder: bool) -> None:
        if self.in_decoder != in_decoder:  # settings that know the former file
            raise MethodError(f"the pruning method {self.name} has become another kind: make its settings anew")


def _check_fact(name: str, value: Any) -> Any:
    """The value of a fact that a user's method declares. Raises MethodError for one that cannot be."""
    if name != "needs":
        if not isinstance(value, bool):
            raise MethodError(f"{name} must be True or False, got {value!r}")
        return value
    if not isinstance(value, tuple | list | set | frozenset) or not all(
        isinstance(need, str) and need in QUESTION_VIEWS for need in value
    ):
        raise MethodError(f"NEEDS may have {', '.join(QUESTION_VIEWS)}, not {value!r}")
    return tuple(value)


def load_guest(name: str, path: Path, package: str, contents: bytes) -> Guest:
    """The method `name` that the contents of a user's file define; `package` is what its relative imports start from.

    Raises MethodError, naming the method and the cause, for a file that cannot be imported or defines no method.
    """
    with named(name, path, " cannot be imported"):
        module = _run(path, contents, package)
    method = getattr(module, "METHOD", None)
    if not isinstance(method, Method):
        if isinstance(method, type) and issubclass(method, Method):
            raise MethodError(f"the pruning method {name}: METHOD must be an object, not the class {method.__name__}")
        if not callable(getattr(module, "select", None)) and not callable(getattr(module, "prune_decoder", None)):
            raise MethodError(f"the pruning method {name} defines no function select(views, settings)")
        method = _FromModule(module)
    return Guest(method, name, path)


def _run(path: Path, contents: bytes, package: str) -> ModuleType:
    """The module that a file's contents make: no compiled copy, which may be older, and no module of the same name."""
    own = hashlib.sha256(os.fsencode(path) + b"\0" + contents).hexdigest()[:16]
    module = ModuleType(f"llava_pruning_method_{path.stem}_{own}")
    module.__file__, module.__package__ = str(path), package
    sys.modules[module.__name__] = module  # dataclasses and pickle look it up there
    exec(compile(contents, path, "exec", dont_inherit=True), vars(module))
    return module
