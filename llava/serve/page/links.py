"""The link that holds a page's settings and scene: what is written into its query, and what is read of it."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import fields, replace
from urllib.parse import urlencode

from llava.errors import InputError
from llava.pruning import Settings
from llava.pruning.settings import DEFAULTS, parser_of
from llava.serve.page.samples import Sample
from llava.serve.page.service import Service

ANSWERING = {"temperature": float, "max_new_tokens": int}
_MOST_SHOWN = 40  # characters of a value that is named


def query_of(service: Service, pruning: Settings, answering: Mapping[str, object], scene: str) -> str:
    """The query of a link: the scene, and what is neither unread nor everywhere the default."""
    values = {"scene": scene.lower()} if scene else {}
    for own in fields(Settings):
        value, is_read = getattr(pruning, own.name), own.metadata.get("is_read", lambda _: True)(pruning)
        if is_read and not value == DEFAULTS[own.name] == getattr(service.settings, own.name):
            values[own.name] = value
    usual = answering_of(service)
    return "?" + urlencode(values | {name: value for name, value in answering.items() if value != usual[name]})


def answering_of(service: Service) -> dict[str, object]:
    """Temperature and length of answers, as the page begins with them."""
    options = service.options
    temperature = options.get("temperature", 0) if options.get("do_sample") else 0
    return {"temperature": temperature, "max_new_tokens": options["max_new_tokens"]}


class Link:
    """What a query says.

    Attributes:
        pruning: the settings; the page's own where it says nothing, or nothing that is valid.
        answering: temperature and length, likewise.
        scene: the number of the sample; 0 likewise.
        problem: a line about what of it is invalid; empty for nothing.
    """

    def __init__(self, service: Service, samples: list[Sample], query: Mapping[str, str]) -> None:
        self._service, self._wrong = service, []
        self.pruning, self.answering, self.scene = service.settings, answering_of(service), 0
        given = {}
        for name, text in query.items():
            if name.startswith("__"):  # Gradio's own, such as __theme
                continue
            try:
                if name == "scene":
                    self.scene = _scene(samples, text)
                elif name in ANSWERING:
                    self._answer(name, text)
                elif name in DEFAULTS:
                    given[name] = self._setting(name, text)
                else:
                    raise InputError("the page has no such setting")
            except (ValueError, ArgumentTypeError) as error:
                self._wrong.append(f"{name}={text[:_MOST_SHOWN]}: {error}")
        self._choose(given)

    @property
    def problem(self) -> str:
        if not self._wrong:
            return ""
        return f"Not taken from the link: {'; '.join(self._wrong)}. The page's own values are used there."

    def _answer(self, name: str, text: str) -> None:
        values = self.answering | {name: ANSWERING[name](text)}
        self._service.decoding(*values.values())
        self.answering = values

    def _setting(self, name: str, text: str) -> object:
        if not self._service.offers(name):
            raise InputError("it is the server's")
        if name == "pruning_method" and text not in self._service.methods:  # before it is imported
            raise InputError("no such method is offered here")
        value = parser_of(name)(text)
        return self._service.patches if value is None else value

    def _choose(self, given: dict) -> None:
        """Take the settings together, if they go together."""
        try:
            pruning = self._service.pruning(**vars(self._service.settings) | given) if given else self.pruning
        except ValueError as error:
            self._wrong.append(str(error))
            return
        most = self._service.most_tokens(pruning.budget_per)
        if pruning.visual_token_num > most:
            self._wrong.append(f"visual_token_num={pruning.visual_token_num}: there are {most} at most")
            pruning = replace(pruning, visual_token_num=self.pruning.visual_token_num)
        self.pruning = pruning


def _scene(samples: list[Sample], text: str) -> int:
    titles = [sample.title.lower() for sample in samples]
    if text.lower() not in titles:
        raise InputError("there is no such scene")
    return titles.index(text.lower())
