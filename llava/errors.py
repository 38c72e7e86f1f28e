"""The error for bad input, and how messages quote others. This file imports nothing."""

from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line that names the cause."""


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name: for quoting another library's error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def list_some(names: Iterable[str]) -> str:
    """The first four of some names in alphabetical order, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
