"""Files read and written: text, JSON, and files that appear when they are complete. This file does not import torch."""

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from llava.errors import InputError, one_line

MOST_BYTES = 1 << 30  # of a file that is read whole; VQAv2's annotations have 0.4 GB


@contextlib.contextmanager
def open_text(path: str | Path, what: str) -> Iterator[TextIO]:
    """A file open for reading as UTF-8, with or without a byte-order mark.

    Raises InputError, calling the file `what`, if it cannot be read, now or later, or is no file: a pipe or a device
    may have no end.
    """
    try:
        is_file = stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot read the {what} {path}: {one_line(error)}") from error
    if not is_file:
        raise InputError(f"cannot read the {what} {path}: not a file")
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the {what} {path}: {one_line(error)}") from error


def read_text(path: str | Path, what: str) -> str:
    """A file's text, as `open_text` reads it. Raises InputError as that does, and for more than 1 GiB."""
    with open_text(path, what) as file:
        if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
            raise InputError(f"cannot read the {what} {path}: {size} bytes are more than {MOST_BYTES}")
        return file.read()


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says. Raises InputError, saying where, if it is not JSON or more than Python can take."""
    try:
        return json.loads(text)
    except ValueError as error:  # also for a number of thousands of digits
        raise InputError(f"{where} is not JSON: {one_line(error)}") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply") from error


def read_json(path: str | Path, what: str) -> Any:
    """What a JSON file says. Raises InputError, calling the file `what`, if it cannot be read or is not JSON.

    So does half a surrogate pair in a string, which JSON can write and nothing can print or store as UTF-8.
    """
    text, where = read_text(path, what), f"the {what} {path}"
    values = parse_json(text, where)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where} is not JSON in UTF-8: {one_line(error)}") from error
    return values


def read_json_object(path: str | Path, what: str) -> dict:
    """The object in a JSON file. Raises InputError as `read_json` does, and if it is no object."""
    values = read_json(path, what)
    if not isinstance(values, dict):
        raise InputError(f"the {what} {path} is not a JSON object")
    return values


def require_writable(*files: str | Path) -> None:
    """Raise InputError for the first of these files that cannot be written, before the work whose result it is to hold.

    Nothing is written and no folder is made: what is looked at is the file itself, and the folder that it, or the first
    folder that is missing on the way to it, would be made in.
    """
    for file in map(Path, files):
        try:
            for each in (file, file.with_name(f"{file.name}.part")):  # see `atomic_writer`
                if _is_there(each) and not each.is_file():
                    raise InputError(f"cannot write {file}: {each} is {'a folder' if each.is_dir() else 'no file'}")
            place = next(each for each in file.parents if _is_there(each))
            if not place.is_dir():
                raise InputError(f"cannot write {file}: {place} is no folder")
            tempfile.TemporaryFile(dir=place).close()
        except InputError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or no name at all
            raise InputError(f"cannot write {file}: {one_line(error)}") from error


def _is_there(path: Path) -> bool:
    """Whether a path exists. Raises OSError where that cannot be known, as for a name that is too long."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def require_new_folder(folder: Path) -> None:
    """Raise InputError unless a folder can be made here: it is not there yet, and what it will be in can be written."""
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists already: remove it, or choose another folder")
    try:
        require_writable(folder / "config.json")  # not the folder: what is left of one that was cut off does not matter
    except InputError as error:
        raise InputError(f"cannot write the folder {folder}: {error}") from error


@contextlib.contextmanager
def atomic_writer(path: str | Path):
    """A text file open for writing that appears under its name only when it is complete.

    Until then it is `<name>.part`; an InputError on the way removes that, any other end leaves what was written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'no file'}")
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


def remove_file(path: Path) -> None:
    """Remove a file if it is there. Raises InputError if that cannot be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {path}: {one_line(error)}") from error


def write_json(path: Path, values: object, sort_keys: bool = True) -> None:
    """Write a JSON file that is there whole or not at all. Raises InputError if it cannot be written."""
    with atomic_writer(path) as file:
        file.write(json.dumps(values, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n")
