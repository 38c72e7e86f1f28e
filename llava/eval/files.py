"""The benchmarks' files: JSON lines and JSON lists in, results out whole or not at all."""

import json
from collections.abc import Iterable
from pathlib import Path

from llava.utils import InputError, atomic_writer, read_text


def read_jsonl(path: str | Path, what: str, fields: Iterable[str], may_be_empty: bool = False) -> list[dict]:
    """The objects of a JSON-lines file. Raises InputError, naming the line, if one is broken or lacks a field."""
    rows = []
    for number, line in enumerate(read_text(path, what).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{what} {path}, line {number}: not JSON: {error}") from error
        require_fields(row, fields, f"{what} {path}, line {number}")
        rows.append(row)
    if not rows and not may_be_empty:
        raise InputError(f"the {what} {path} is empty")
    return rows


def read_json_list(path: str | Path, what: str, fields: Iterable[str]) -> list[dict]:
    """The objects of a JSON list. Raises InputError, calling the file `what`, if one is broken or lacks a field."""
    try:
        rows = json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise InputError(f"the {what} {path} is not JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"the {what} {path} is not a JSON list with something in it")
    for number, row in enumerate(rows, start=1):
        require_fields(row, fields, f"{what} {path}, entry {number}")
    return rows


def require_fields(row: object, fields: Iterable[str], where: str) -> None:
    """Raise InputError, saying where, unless `row` is an object with all of `fields`."""
    if missing := [name for name in fields if not isinstance(row, dict) or name not in row]:
        raise InputError(f"{where}: no {', '.join(missing)}")


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as JSON, whole or not at all. Raises InputError if the file cannot be written."""
    with atomic_writer(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
