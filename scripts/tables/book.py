"""The files in docs/results, checked, and the Markdown of the tables that they hold.

They are of three forms:

- what `python -m llava.eval ... --results FILE` writes, see `llava.eval.report.results`;
- tables: `{"form": "tables 1", "tables": {NAME: {"about", "columns", "rows"}}}`. `about` says where the figures come
  from, as far as that is known. A cell is a number, several that the column's `format` puts together, text, or null.
  Tables `NAME/PART` are parts of one table NAME, in their order;
- published.json: a list of figures that others published, each with its source.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from llava.errors import InputError
from llava.eval.benchmarks.rows import check
from llava.eval.report.results import FORM, Results, read_results
from llava.files import read_json

_STRICT = ConfigDict(extra="forbid")
Cell = str | int | float | list[int | float] | None


class About(TypedDict, total=False):
    """Where figures come from, as far as it is known."""

    __pydantic_config__ = _STRICT
    kind: Literal["measured", "published", "arithmetic"]
    command: str
    machine: str
    versions: str
    date: str
    source: str
    note: str


class TableColumn(TypedDict):
    """A column. `format` makes text of a cell's numbers: one for each number of them; `{}` without it.

    `right` aligns it. Cells of columns with `once` are left empty where all of these are those of the row above.
    """

    __pydantic_config__ = _STRICT
    heading: str
    format: NotRequired[str | list[str]]
    right: NotRequired[bool]
    once: NotRequired[bool]


class Table(TypedDict):
    __pydantic_config__ = _STRICT
    about: About
    columns: list[TableColumn]
    rows: list[list[Cell]]


class Tables(TypedDict):
    __pydantic_config__ = _STRICT
    form: Literal["tables 1"]
    tables: dict[str, Table]


class Published(TypedDict):
    """A figure that others published: `kept` is the share of the visual tokens, `tokens` their number."""

    __pydantic_config__ = _STRICT
    task: str
    model: str
    method: str
    kept: float | None
    tokens: NotRequired[int]
    score: float
    unit: Literal["%", "points", "ms"]
    source: Annotated[str, Field(min_length=3)]


def markdown(heading: list[str], rows: Iterable[list[str]], right: Iterable[bool] = ()) -> str:
    """The lines of a table."""
    rule = ["---:" if is_right else "---" for is_right in right] or ["---"] * len(heading)
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (heading, *rows))
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in escaped]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]]) + "\n"


def text_of(cell: Cell, column: TableColumn) -> str:
    """A cell as the table shows it. Raises InputError if the column has no format for so many numbers."""
    if cell is None or isinstance(cell, str):
        return cell or ""
    numbers, formats = cell if isinstance(cell, list) else [cell], column.get("format", "{}")
    for each in [formats] if isinstance(formats, str) else formats:
        if each.count("{") == len(numbers):
            return each.format(*numbers)
    raise InputError(f"column {column['heading']!r} has no format for {cell}")


def table_markdown(table: Table) -> str:
    """A table of a file of tables."""
    columns, rows, above = table["columns"], [], None
    for row in table["rows"]:
        if len(row) != len(columns):
            raise InputError(f"a row has {len(row)} cells for {len(columns)} columns: {row!r:.80}")
        cells = [text_of(cell, column) for cell, column in zip(row, columns)]
        once = [cell for cell, column in zip(cells, columns) if column.get("once")]
        rows.append(["" if column.get("once") and once == above else cell for cell, column in zip(cells, columns)])
        above = once
    return markdown([column["heading"] for column in columns], rows, [column.get("right", False) for column in columns])


class Book:
    """All results in a folder, checked. Raises InputError, naming file and field, for one that is not of its form.

    Attributes:
        tables: by `FILE.TABLE`, each with all of its parts.
        abouts: where the parts of each come from.
        runs: by file.
        published: what others published.
    """

    def __init__(self, folder: Path) -> None:
        self.tables: dict[str, Table] = {}
        self.abouts: dict[str, list[About]] = {}
        self.runs: dict[str, Results] = {}
        self.published: list[Published] = []
        for file in sorted(folder.rglob("*.json")):
            name, values = file.relative_to(folder).with_suffix("").as_posix(), read_json(file, "results")
            if name == "published":
                self.published = check(values, list[Published], f"the results {file}")
            elif isinstance(values, dict) and values.get("form") == FORM:
                self.runs[name] = read_results(file)
            else:
                tables = check(values, Tables, f"the results {file}")["tables"]
                for table, found in tables.items():
                    self._add(f"{name}.{table.partition('/')[0]}", found, f"the results {file}: table {table}")

    def _add(self, name: str, found: Table, where: str) -> None:
        """Take a table, or a further part of one. Raises InputError for a part with other columns."""
        whole = self.tables.setdefault(name, {**found, "rows": []})
        if whole["columns"] != found["columns"]:
            raise InputError(f"{where} has other columns than the parts before it")
        whole["rows"] += found["rows"]
        self.abouts.setdefault(name, []).append(found["about"])

    def value(self, table: str, column: str, **where: Any) -> Cell:
        """The cell in the column of a heading, in the row whose cells under the headings of `where` are these."""
        found = self.tables[table]
        names = [each["heading"] for each in found["columns"]]
        for row in found["rows"]:
            cells = dict(zip(names, row))
            if all(cells[heading.replace("_", " ")] == wanted for heading, wanted in where.items()):
                return cells[column]
        raise InputError(f"{table} has no row of {where}")

    def score(self, model: str, method: str, task: str, tokens: int) -> float:
        """A published figure. Raises InputError if there is none."""
        asked = {"model": model, "method": method, "task": task, "tokens": tokens}
        for each in self.published:
            if asked.items() <= each.items():
                return each["score"]
        raise InputError(f"published.json has no figure of {', '.join(map(str, asked.values()))}")
