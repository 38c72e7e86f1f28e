"""What every command shares: the error for bad input, and the one place that turns it into one line and exit code 2."""

import argparse
import ast
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line that names the cause."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line on stderr and exit code 2, like any other bad input."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the options)\n")


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main` and exit: 0 when it returns, 2 with one line on stderr for an InputError.

    While it runs, the threads of OpenMP sleep when they wait, unless OMP_WAIT_POLICY says otherwise: on a CPU that
    other processes use too, threads that spin take time from one another. It must come before the import of torch.
    A closed stdout (`| head`) ends it quietly with the shell's code for SIGPIPE, Ctrl-C with that for SIGINT.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(0)


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name: for quoting another library's error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def list_some(names: Iterable[str]) -> str:
    """The first four of some names in alphabetical order, and how many there are more."""
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def read_text(path: str | Path, what: str) -> str:
    """A file's text. Raises InputError, calling the file `what`, if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the {what} {path}: {one_line(error)}") from error


def read_json_object(path: str | Path, what: str) -> dict:
    """The object in a JSON file. Raises InputError, calling the file `what`, if it cannot be read or is no object."""
    try:
        values = json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise InputError(f"the {what} {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"the {what} {path} is not a JSON object")
    return values


@contextlib.contextmanager
def atomic_writer(path: str | Path):
    """A text file open for writing that appears under its name only when it is complete.

    Until then it is `<name>.part`; an InputError on the way removes that, any other end leaves what was written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(path)
    except InputError:
        part.unlink()
        raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {one_line(error)}") from error


def get_model_name_from_path(model_path: str) -> str:
    """The checkpoint's name: the last part of its path, with the run's in front of a `checkpoint-N`."""
    *parents, name = str(model_path).strip("/").split("/")
    return f"{parents[-1]}_{name}" if name.startswith("checkpoint-") and parents else name


def read_grid_pinpoints(text: str | None) -> list[list[int]] | None:
    """What a user wrote for `image_grid_pinpoints`, such as `[[672, 672]]`. Raises InputError for another form."""
    try:
        sizes = [[int(width), int(height)] for width, height in parse_grid_pinpoints(text)] if text else None
    except (ValueError, TypeError, SyntaxError):
        sizes = [[0]]
    if sizes is not None and not all(side > 0 for size in sizes for side in size):
        raise InputError(f"image_grid_pinpoints must be a list of [width, height], not {text!r}")
    return sizes


def parse_grid_pinpoints(grid_pinpoints: list | str) -> list:
    """A config's `image_grid_pinpoints`, a list of (W, H) or its text, as a list."""
    return ast.literal_eval(grid_pinpoints) if isinstance(grid_pinpoints, str) else grid_pinpoints


def disable_torch_init() -> None:
    """Keep code written for upstream LLaVA running.

    Upstream calls this to spare the random initialisation of weights that are about to be loaded; here
    `load_pretrained_model` builds on the meta device and never initialises, so there is nothing to switch off.
    """
