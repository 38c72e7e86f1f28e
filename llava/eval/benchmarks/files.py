"""The benchmarks' files: JSON lines and JSON lists.

What a record may hold is in `rows`, which is imported where a file is read: `--help` needs no pydantic.
"""

import contextlib
import gc
from collections.abc import Iterable, Iterator
from pathlib import Path

from llava.errors import InputError
from llava.files import open_text, read_json


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

    from llava.eval.benchmarks.rows import Row, adapter, first_fault

    parse = adapter(schema or Row).validate_json
    fields, is_empty = tuple(fields), True
    with open_text(path, what) as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                row = parse(line, strict=True)
            except ValidationError as error:
                raise InputError(f"{what} {path}, line {number}: {first_fault(error)}") from None
            require_fields(row, fields, f"{what} {path}, line {number}")
            yield row
            is_empty = False
    if is_empty and not may_be_empty:
        raise InputError(f"the {what} {path} is empty")


def read_json_list(path: str | Path, what: str, schema: type) -> list[dict]:
    """The objects of a JSON list. Raises InputError, calling the file `what`, if one is not as in `schema`."""
    from llava.eval.benchmarks.rows import check

    rows = read_json(path, what)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"the {what} {path} is not a JSON list with something in it")
    return [check(row, schema, f"{what} {path}, entry {number}") for number, row in enumerate(rows, start=1)]


def require_fields(row: object, fields: Iterable[str], where: str) -> None:
    """Raise InputError, saying where, unless `row` is an object with all of `fields`."""
    if missing := [name for name in fields if not isinstance(row, dict) or name not in row]:
        raise InputError(f"{where}: no {', '.join(missing)}")
