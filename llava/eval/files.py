"""The benchmarks' files: JSON lines and JSON lists in, results out whole or not at all.

What a record may hold is in `rows`, which is imported where a file is read: `--help` needs no pydantic.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llava.errors import InputError
from llava.files import atomic_writer, open_text, parse_json, read_json

if TYPE_CHECKING:
    from pydantic import ValidationError

MOST_LINE = 1 << 23  # characters of a line; a question has a few hundred
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def read_jsonl(
    path: str | Path, what: str, fields: Iterable[str], may_be_empty: bool = False, schema: type | None = None
) -> list[dict]:
    """The objects of a JSON-lines file, as `iterate_jsonl` gives them. Raises InputError as that does."""
    with collection_paused():
        return list(iterate_jsonl(path, what, fields, may_be_empty, schema))


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Keep Python from looking for garbage while records are made, of which none is: that takes half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def iterate_jsonl(
    path: str | Path, what: str, fields: Iterable[str], may_be_empty: bool = False, schema: type | None = None
) -> Iterator[dict]:
    """The objects of a JSON-lines file, one after another, with the fields that `schema` keeps (`rows.Row`: all).

    Raises InputError, naming the line, if one is broken, lacks one of `fields`, or is not as in `schema`.
    """
    from pydantic import ValidationError

    from llava.eval.rows import Row, adapter

    parse = adapter(schema or Row).validate_json
    fields, is_empty = tuple(fields), True
    with open_text(path, what) as file:
        for number, line in enumerate(iter(lambda: file.readline(MOST_LINE + 1), ""), start=1):
            if len(line) > MOST_LINE:
                raise InputError(f"{what} {path}, line {number}: more than {MOST_LINE} characters")
            if line.isspace():
                continue
            try:
                row = parse(line, strict=True)
            except ValidationError as error:
                row = _read_odd_line(line, schema or Row, f"{what} {path}, line {number}", error)
            for name in fields:
                if name not in row:
                    raise InputError(f"{what} {path}, line {number}: no {name}")
            yield row
            is_empty = False
    if is_empty and not may_be_empty:
        raise InputError(f"the {what} {path} is empty")


def _read_odd_line(line: str, schema: type, where: str, error: ValidationError) -> dict:
    """The object of a line that pydantic does not take because of half a surrogate pair; else raises InputError."""
    from llava.eval.rows import check, first_fault

    fault = error.errors(include_url=False)[0]
    if fault["type"] != "json_invalid":
        raise InputError(f"{where}: {first_fault(error)}") from None
    if not HALF_PAIR.search(line):
        raise InputError(f"{where}: not JSON: {fault['ctx']['error']}") from None
    return check(parse_json(line, where), schema, where)


def read_json_list(path: str | Path, what: str, schema: type) -> list[dict]:
    """The objects of a JSON list. Raises InputError, calling the file `what`, if one is not as in `schema`."""
    from llava.eval.rows import check

    rows = read_json(path, what)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"the {what} {path} is not a JSON list with something in it")
    return [check(row, schema, f"{what} {path}, entry {number}") for number, row in enumerate(rows, start=1)]


def require_fields(row: object, fields: Iterable[str], where: str) -> None:
    """Raise InputError, saying where, unless `row` is an object with all of `fields`."""
    if missing := [name for name in fields if not isinstance(row, dict) or name not in row]:
        raise InputError(f"{where}: no {', '.join(missing)}")


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as JSON, whole or not at all. Raises InputError if the file cannot be written."""
    # What UTF-8 cannot hold, half a surrogate pair in an answer, stands there as the escape that JSON has for it.
    text = json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
    with atomic_writer(path) as file:
        file.write(text.decode("utf-8"))
