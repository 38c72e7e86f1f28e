"""Where the model that answers comes from: a checkpoint, which is loaded once, or a model that is loaded already."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

from llava.checkpoints.folders import get_model_name_from_path
from llava.eval.benchmarks.questions import Question
from llava.inference.options import AskingOptions, ModelOptions
from llava.pruning.settings import Settings

if TYPE_CHECKING:
    from llava.model.builder import LoadedModel
    from llava.model.template import Template

SettingsAt = Callable[[Settings, dict], dict]


class ModelSource(Protocol):
    """Where the model that answers comes from."""

    name: str
    model_path: str
    model_type: str | None

    def load(self, device: Callable[[str], str]) -> LoadedModel:
        """The model, on what `device` makes of the device that is asked for. Raises InputError if it cannot be."""

    def find_template(self, wanted: str | None) -> Template:
        """The prompt template that is wanted, or the default; see `template.find_template`."""

    def decisive(self, asking: AskingOptions, questions: list[Question]) -> SettingsAt:
        """What decides the answers; see `settings.Decisive.settings`."""


class OnDisk:
    """A checkpoint. It is loaded when it is first needed, and kept."""

    def __init__(self, options: ModelOptions, as_upstream: bool = False) -> None:
        """`options` say which, less its pruning; `as_upstream` is for the default template of upstream's commands."""
        self.options, self.as_upstream = replace(options, pruning=Settings()), as_upstream
        self.name, self.model_path = options.name, options.model_path
        self.load, self.find_template = cache(self._load), cache(self._find_template)

    @property
    def model_type(self) -> str | None:
        return self.options.model_type

    def require(self) -> None:
        """Raise InputError if there is no such checkpoint."""
        _ = self.options.model_type

    def _load(self, device: Callable[[str], str]) -> LoadedModel:
        return replace(self.options, device=device(self.options.device)).load()

    def _find_template(self, wanted: str | None) -> Template:
        from llava.model.template import find_template

        return find_template(self.name, self.model_type, wanted, self.model_path, self.as_upstream)

    def decisive(self, asking: AskingOptions, questions: list[Question]) -> SettingsAt:
        from llava.eval.run.settings import Decisive

        return Decisive(self.options, asking, self.find_template(asking.conv_mode).name, questions).settings


class InMemory:
    """A model that is loaded already; its weights may be anyone's, so no answers on disk are its own."""

    def __init__(self, model) -> None:
        """`model` is what `load_pretrained_model` returned, or a LLaVA model alone."""
        self.model, self.load, self.find_template = model, cache(self._load), cache(self._find_template)
        bare = model[1] if isinstance(model, tuple) else model
        self.model_path = str(bare.config.name_or_path)
        self.name = get_model_name_from_path(self.model_path) or "model"
        self.model_type = bare.config.model_type

    def _load(self, device: Callable[[str], str]) -> LoadedModel:
        from llava.model.builder import as_loaded

        return as_loaded(self.model)

    def _find_template(self, wanted: str | None) -> Template:
        from llava.model.template import find_template

        return find_template(self.name, self.model_type, wanted, self.model_path)

    def decisive(self, asking: AskingOptions, questions: list[Question]) -> SettingsAt:
        return lambda pruning, known: {"run": uuid.uuid4().hex}
