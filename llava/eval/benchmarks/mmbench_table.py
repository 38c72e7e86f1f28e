"""MMBench's tables: a question a row, with its options, its label and its picture as cells."""

import base64
import binascii
import contextlib
import csv
import re
from collections import Counter
from pathlib import Path

from llava.errors import InputError, one_line
from llava.eval.benchmarks.files import require_fields
from llava.files import open_text

OPTIONS = ("A", "B", "C", "D")
MOST_PICTURE = 45_000_000  # characters of a cell: base64 of 32 MiB
INDEX = re.compile(r"[0-9]{1,18}")


def is_absent(cell: str | None) -> bool:
    """Whether a cell says that there is nothing: empty, nan or none."""
    return cell is None or cell.strip().lower() in ("", "nan", "none")


def read_mmbench_table(path: str | Path, columns: list[str]) -> list[dict[str, str]]:
    """The rows of an MMBench file, by column; the cells of absent options are empty.

    Raises InputError if one of `columns` or a numeric `index` is missing, an index stands there twice, or a cell is
    larger than a picture of 32 MiB.
    """
    limit = csv.field_size_limit(MOST_PICTURE)
    try:
        with open_text(path, "question file") as file:
            reader = csv.DictReader(file, delimiter="\t")
            header = list(reader.fieldnames or [])
            rows = list(reader)
    except csv.Error as error:
        raise InputError(f"the question file {path} is not tab-separated: {one_line(error)}") from error
    finally:
        csv.field_size_limit(limit)
    require_fields(dict.fromkeys(header), ["index", *columns], f"question file {path}, header")
    if len(set(header)) < len(header):
        raise InputError(f"question file {path}, header: a column stands there twice")
    if not rows:
        raise InputError(f"the question file {path} has no questions")
    for row in rows:
        _check_cells(row, f"question file {path}")
    if again := [index for index, count in Counter(int(row["index"]) for row in rows).items() if count > 1]:
        raise InputError(f"question file {path}: {len(again)} index(es) more than once, such as {again[0]}")
    _empty_absent_options(rows)
    return rows


def _check_cells(row: dict[str, str], where: str) -> None:
    """Raise InputError, saying where, if a row is not of the header's length or its cells are not what they should."""
    if None in row or None in row.values():
        raise InputError(f"{where}: question {str(row['index'])[:60]!r} has not as many cells as the header")
    if not INDEX.fullmatch(row["index"].strip()):
        raise InputError(f"{where}: {row['index'][:60]!r} is no index")


def _empty_absent_options(rows: list[dict[str, str]]) -> None:
    """Empty the cells of options that are not there.

    They are empty or read nan. None is an option's text, but where a file has no cell of that kind it may be how the
    file writes absence: there it is absent after the last option that reads otherwise.
    """
    names = [letter for letter in OPTIONS if letter in rows[0]]
    blank = [{name for name in names if row[name].strip().lower() in ("", "nan")} for row in rows]
    none_is_absent = not any(blank)
    for row, absent in zip(rows, blank):
        for name in reversed(names) if none_is_absent else ():
            if not is_absent(row[name]):
                break
            absent.add(name)
        row.update(dict.fromkeys(absent, ""))


def options_of(row: dict[str, str]) -> dict[str, str]:
    """The options of a row of `read_mmbench_table` by their letters, which leave out one where its cell is empty."""
    return {letter: row[letter] for letter in OPTIONS if row.get(letter)}


def read_pictures(rows: list[dict[str, str]], path: str | Path) -> list[bytes]:
    """The picture of each row: what its cell holds in base64, or, where that is an index, the picture of that row.

    Rows with the same picture by index share it. Raises InputError for a cell that is neither.
    """
    by_index = {int(row["index"]): row for row in rows}
    decoded: dict[int, bytes] = {}
    pictures = []
    for row in rows:
        source = _source_of_picture(row, by_index, f"question file {path}: the image of {row['index']}")
        if source not in decoded:
            decoded[source] = _decode(by_index[source]["image"], f"question file {path}: the image of {source}")
        pictures.append(decoded[source])
    return pictures


def first_rows_of_pictures(rows: list[dict[str, str]]) -> list[int]:
    """The index of the first row that has the same picture, for each row; its own where the file does not tell."""
    by_index = {int(row["index"]): row for row in rows}
    first: dict[str, int] = {}
    indexes = []
    for row in rows:
        index = int(row["index"])
        if not is_absent(row.get("image")):
            with contextlib.suppress(InputError):  # an index that no row has
                index = _source_of_picture(row, by_index, "")
                index = first.setdefault(by_index[index]["image"], index)
        indexes.append(index)
    return indexes


def _source_of_picture(row: dict[str, str], by_index: dict[int, dict[str, str]], where: str) -> int:
    """The index of the row that has this row's picture in it."""
    passed = {int(row["index"])}
    while INDEX.fullmatch(named := row["image"].strip()):
        if int(named) in passed or int(named) not in by_index:
            raise InputError(f"{where} is said to be that of {named}, which has none")
        passed.add(int(named))
        row = by_index[int(named)]
    return int(row["index"])


def _decode(cell: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(cell.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where} is not base64: {one_line(error)}") from error
