"""What the commands of playground.tiny share: their parser, and checks of what they are given."""

import argparse
from collections.abc import Callable
from pathlib import Path

from llava.cli import CommandParser
from llava.errors import InputError, one_line


def command_parser(name: str, description: str, **options) -> CommandParser:
    """The parser of `python -m playground.tiny.NAME`; its help shows the description as it is written."""
    prog, formatter = f"python -m playground.tiny.{name}", argparse.RawDescriptionHelpFormatter
    return CommandParser(prog, description=description, formatter_class=formatter, **options)


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is an integer of at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
        return value

    return read


def make_folder(path: Path) -> None:
    """Make an output folder, unless it exists. Raises InputError if that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {one_line(error)}") from error
