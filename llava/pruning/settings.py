"""`Settings`: everything that says which visual tokens are kept, stated once.

Keywords, command-line options, the recipes' environment, JSON of requests, names of folders and the page's controls are
derived from the fields. A new setting is a field here, and the code that uses it. This file does not import torch.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from llava.pruning.interface import Method, PerImage
from llava.pruning.method import METHOD_NAMES, NONE, VISPRUNER, check_pruning_method, load_method

CROP, IMAGE = "crop", "image"
BUDGETS_PER = (CROP, IMAGE)
RENUMBERED, ORIGINAL, AFTER = "renumbered", "original", "after"


def setting(default: Any, kind: Callable[[str], Any], help: str, **more: Any) -> Any:
    """A field of `Settings`.

    Args:
        kind: what makes a value of text: `int`, `float` or `str`.
        help: for the command line and the page.
        more: `is_read`, from settings to whether this one decides anything, and `unread`, its value where it does not
            (the default); `check`, which raises ValueError, naming the setting, for an invalid value;
            `choices`; `least` and `most`, which bound a number; `label`, for the page; `suffix`, from a value that is
            not the default to what folder names add for it.
    """
    return field(default=default, metadata={"kind": kind, "help": help, **more})


@dataclass(frozen=True)
class Settings:
    """How many visual tokens one call keeps, and how they are chosen.

    Attributes:
        visual_token_num: T, an integer >= 1; None keeps all.
        important_ratio: VisPruner's share of T in [0, 1] that is chosen by [CLS] attention.
        pruning_method: a name, file or module that `method.load_method` takes.
        pruning_seed: the seed of what a method draws at random.
        budget_per: whether T counts per "crop" or per "image". Per image, a method is given the patches of all crops as
            one list.
        positions: by which numbers the language model knows where the tokens of a pruned prompt stand. "renumbered",
            as VisPruner and the other papers have it: one after another. "original": a kept token has the position
            that it has unpruned, and text goes on after all that there would be (GAP, arXiv 2506.21873). "after": kept
            tokens one after another, and text goes on after all that there would be.

    Raises ValueError for an invalid value; the message names the setting. Raises PruningError for a method that cannot
    take the crops of an image together.
    """

    visual_token_num: int | None = setting(
        None,
        int,
        "visual tokens kept of each crop, or image",
        least=1,
        label="Visual tokens (T)",
        is_read=lambda own: own.pruning_method != NONE and not own.is_blind,
    )
    important_ratio: float = setting(
        0.5,
        float,
        "share of them chosen by [CLS] attention",
        least=0,
        most=1,
        label="Important ratio",
        is_read=lambda own: load_method(own.pruning_method).reads_ratio,
        unread=None,
    )
    pruning_method: str = setting(
        VISPRUNER,
        str,
        f"how they are chosen: {', '.join(METHOD_NAMES)}, a .py file or a package.module",
        check=check_pruning_method,
        label="Method",
    )
    pruning_seed: int = setting(
        0,
        int,
        "seed of the method random",
        label="Seed",
        suffix=lambda value: f"_seed_{value}",
        is_read=lambda own: load_method(own.pruning_method).draws_at_random,
    )
    budget_per: str = setting(
        CROP,
        str,
        "whether visual_token_num counts per crop, or per image over all its crops",
        choices=BUDGETS_PER,
        label="T counts per",
        suffix=lambda value: f"_per_{value}",
        is_read=lambda own: own.prunes,
    )
    positions: str = setting(
        RENUMBERED,
        str,
        "positions of kept tokens: anew, or as unpruned; after: anew, but text goes on where it would unpruned",
        choices=(RENUMBERED, ORIGINAL, AFTER),
        label="Positions",
        suffix=lambda value: f"_{value}",
        is_read=lambda own: own.prunes_before_decoder,
    )

    def __post_init__(self) -> None:
        for own in fields(self):
            value = getattr(self, own.name)
            _check(own, value)
            if own.metadata["kind"] is int and value is not None:  # a tensor could be written into
                object.__setattr__(self, own.name, operator.index(value))
        if self.budget_per == IMAGE and self.prunes:
            _ = self.method

    @property
    def method(self) -> Method:
        """The method, with its budget per image where that is asked for; an edited file is read again."""
        method = load_method(self.pruning_method)
        return PerImage(method, self.pruning_method) if self.budget_per == IMAGE else method

    @property
    def prunes(self) -> bool:
        """Whether there is a budget and a method that uses it."""
        return self.visual_token_num is not None and self.pruning_method != NONE and not self.is_blind

    @cached_property
    def is_blind(self) -> bool:
        """Whether the language model is shown no picture at all, whatever the budget."""
        return self.pruning_method != NONE and load_method(self.pruning_method).blind

    @cached_property  # so that a step of generation that is compiled finds it
    def prunes_in_decoder(self) -> bool:
        """Whether visual tokens are dropped inside the language model, so that its prefill begins with all of them."""
        return self.prunes and self.method.in_decoder

    @property
    def prunes_before_decoder(self) -> bool:
        """Whether fewer visual tokens enter the language model than there are patches."""
        return self.prunes and not self.prunes_in_decoder

    @property
    def keeps_room(self) -> bool:
        """Whether text goes on after a pruned image where it would unpruned, so that tokens and positions differ."""
        return self.positions != RENUMBERED and self.prunes_before_decoder

    @property
    def question_views(self) -> tuple[str, ...]:
        """What the method reads of the question; if anything, what it keeps of an image is for one question."""
        return self.method.needs if self.prunes else ()

    @property
    def is_for_one_image(self) -> bool:
        """Whether the method has to be asked for one image at a time."""
        return self.prunes and self.method.one_image_at_a_time

    def kept(self, patches: int, crops: int = 1) -> int:
        """Visual tokens with which an image enters the language model, of so many crops with so many patches each.

        What joins the crops may drop tokens on padding and add newlines after that.
        """
        if self.prunes_in_decoder:
            return crops * patches
        return self.left(crops * patches) if self.budget_per == IMAGE else crops * self.left(patches)

    def left(self, patches: int) -> int:
        """What is left of so many patches among which the method chooses, before the language model or inside it."""
        if self.is_blind:
            return 0
        if not self.prunes or self.visual_token_num >= patches:
            return patches
        return self.method.count(self.visual_token_num, patches)

    def share_in_decoder(self, patches: int) -> float:
        """The share T / N of the visual tokens that a method inside the decoder is asked to leave, of crops of N."""
        return min(1.0, self.visual_token_num / patches) if self.prunes_in_decoder else 1.0

    def left_in_decoder(self, visual: int, patches: int) -> int:
        """How many of a prompt's visual tokens a method inside the decoder leaves, of crops of so many patches."""
        number = round(visual * self.share_in_decoder(patches))
        return self.method.count(number, visual) if number < visual else visual

    @property
    def read(self) -> dict[str, Any]:
        """The settings that decide what is kept; one that the method does not read has its `unread` value."""
        values = asdict(self)
        for own in fields(self):
            if not own.metadata.get("is_read", lambda _: True)(self):
                values[own.name] = own.metadata.get("unread", own.default)
        return values

    @cached_property
    def choice(self) -> Settings:
        """The settings less `positions`, which decide where tokens stand, and not which are kept."""
        return self if self.positions == RENUMBERED else replace(self, positions=RENUMBERED)

    @property
    def suffix(self) -> str:
        """What the names of folders add for settings that are read and not the default's, such as `_per_image`."""
        changed = [own for own in fields(self) if "suffix" in own.metadata and getattr(self, own.name) != own.default]
        read = [own for own in changed if self.prunes and own.metadata.get("is_read", lambda _: True)(self)]
        return "".join(own.metadata["suffix"](getattr(self, own.name)) for own in read)


def number_of_share(share: float, patches: int) -> int:
    """T, where a share of so many patches is to be kept: rounded, and at least one."""
    return max(1, math.floor(share * patches + 0.5))


NAMES = tuple(own.name for own in fields(Settings))
DEFAULTS = {own.name: own.default for own in fields(Settings)}


def pop_settings(options: dict) -> dict[str, Any]:
    """Remove the settings of a call from its keyword arguments: those that are given, by name."""
    return {name: options.pop(name) for name in NAMES if name in options}


def take_settings(options: dict, default: Settings | None = None) -> Settings:
    """Remove the settings of a call from its keyword arguments: the default, less those that are given."""
    given = pop_settings(options)
    default = default or Settings()
    return replace(default, **given) if given else default


def takes_settings(function: Callable) -> Callable:
    """Let a function that takes `**settings` take each by name or, where all it takes is positional, by position too.

    Its signature then has every setting with its default.
    """
    signature = inspect.signature(function)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "settings"]
    names = [name for name in NAMES if name not in signature.parameters]
    by_position = all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in own)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if by_position else inspect.Parameter.KEYWORD_ONLY
    named = [inspect.Parameter(name, kind, default=DEFAULTS[name]) for name in names]

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        more = args[len(own) :] if by_position else ()
        if len(more) > len(names):
            raise TypeError(f"{function.__name__}() takes {len(own) + len(names)} positional arguments at most")
        return function(*args[: len(args) - len(more)], **dict(zip(names, more)), **kwargs)

    wrapper.__signature__ = signature.replace(parameters=[*own, *named])
    return wrapper


def add_settings_arguments(
    parser: argparse.ArgumentParser, several: Iterable[str] = (), less: Iterable[str] = ()
) -> None:
    """An option for each setting but those in `less`; those in `several` take one value or more, as a list."""
    for own in fields(Settings):
        if own.name in less:
            continue
        default = own.default
        ends = f" ({'all' if default is None else default})"
        more: dict[str, Any] = {"nargs": "+", "default": [default]} if own.name in several else {"default": default}
        if own.metadata.get("choices"):
            more["choices"] = own.metadata["choices"]
        parser.add_argument(f"--{own.name}", type=parser_of(own.name), help=f"{own.metadata['help']}{ends}", **more)


def settings_from(options: Mapping[str, Any] | argparse.Namespace) -> Settings:
    """The settings among options by name; the defaults of those that are not there."""
    values = options if isinstance(options, Mapping) else vars(options)
    return Settings(**{name: values[name] for name in NAMES if name in values})


def parser_of(name: str) -> Callable[[str], Any]:
    """What makes a value of a setting from text on the command line; "all" is None where that is the default."""
    own = next(own for own in fields(Settings) if own.name == name)

    def parse(text: str) -> Any:
        if text == "all" and own.default is None:
            return None
        try:
            value: Any = own.metadata["kind"](text)
        except ValueError:
            value = text  # which is then named
        try:
            _check(own, value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(own.name).lstrip(": ")) from None
        return value

    parse.__name__ = own.name
    return parse


def _check(own: Field, value: Any) -> None:
    """Raise ValueError, naming the setting, for an invalid value of it."""
    kind, metadata = own.metadata["kind"], own.metadata
    if value is None and own.default is None:
        return
    if kind is int and not _is_integer(value):
        raise ValueError(f"{own.name} must be an integer, got {value!r}")
    least, most = metadata.get("least"), metadata.get("most")
    if most is not None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise ValueError(f"{own.name} must be a number in [{least}, {most}], got {value!r}")
    elif least is not None and value < least:
        raise ValueError(f"{own.name} must be at least {least}, got {value}")
    if metadata.get("choices") and value not in metadata["choices"]:
        raise ValueError(f"{own.name} must be {' or '.join(metadata['choices'])}, got {value!r}")
    if "check" in metadata:
        metadata["check"](value)


def _is_integer(value: object) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)
