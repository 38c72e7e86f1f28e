"""The table of scores as Markdown and CSV."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava.eval.report.score_table import ABSENT, Column, Run, Setting, Shares, Table, columns_of
from llava.pruning.settings import IMAGE
from llava.tables import markdown_table, printable, write_csv

NOTE = "MME in points, the others in percent. Tokens: visual tokens kept of a picture, in LLaVA-1.6 of each crop."
SHARES = "What is kept of the gain over blind, (score - blind) / (unpruned - blind), in percent:"
MORE = ("low", "high", "sd", "seeds", "share", "share_low", "share_high")  # columns of scores.csv, where any is known
NOTE_PER_IMAGE = "Per image: of all crops of a picture together."


def markdown(
    table: Table, submissions: list[tuple[Run, Path]], first: str, notes: list[str], shares: Shares | None = None
) -> str:
    """The table with one decimal, its notes, and below it the shares and the submission files without a score.

    `first` is the heading of the first column.
    """
    columns = columns_of(table)
    parts = []
    if columns:
        note = f"{NOTE} {NOTE_PER_IMAGE}" if any(f"_per_{IMAGE}" in setting.suffix for setting in table) else NOTE
        if numbers := {len(cell.seeds) for cells in table.values() for cell in cells.values() if cell.seeds}:
            number = " to ".join(map(str, sorted({min(numbers), max(numbers)})))
            notes = [f"±: mean and standard deviation of {number} seeds.", *notes]
        parts += [_rows_markdown(table, first), "", note, *map(printable, notes)]
    if shares:
        parts += ["", SHARES, "", _rows_markdown(shares, first)]
    if submissions:
        parts += [""] * bool(parts) + ["Without a local score, to be submitted:", ""]
        for run, file in sorted(submissions, key=lambda entry: entry[0].setting.order):
            parts.append(f"- {run.benchmark}, {run.setting.name}, {run.setting.budget}: `{printable(str(file))}`")
    return "\n".join(parts) + "\n"


def _rows_markdown(table: Mapping[Setting, Mapping[Column, Any]], first: str) -> str:
    """A row for each setting, a column for each figure."""
    columns = columns_of(table)
    lines = [[first, "tokens", "ratio", *(column.heading for column in columns)]]
    for setting, cells in table.items():
        lines.append([*setting.cells, *(str(cells.get(column, ABSENT)) for column in columns)])
    return markdown_table(lines)


def write_scores(table: Table, path: Path, first: str, shares: Shares | None = None) -> None:
    """One row for each score, with up to four decimals, and what else is known of any.

    That is the interval's ends, of several seeds their standard deviation and number, and the share of the gain over
    `blind` that is kept with its ends. Raises InputError if the file cannot be written.
    """
    rows = []
    for setting, cells in table.items():
        for column in filter(cells.__contains__, columns_of(table)):
            cell, share = cells[column], (shares or {}).get(setting, {}).get(column)
            low, high = cell.interval or (None, None)
            more = {"low": low, "high": high, "sd": cell.spread, "seeds": len(cell.seeds) or None}
            if share is not None:
                more |= dict(zip(("share", "share_low", "share_high"), (share.value, *(share.interval or ()))))
            rows.append(([*setting.cells, column.named(column.benchmark), column.headline.key, cell.value], more))
    known = [name for name in MORE if any(more.get(name) is not None for _, more in rows)]
    lines = [[*what, *(_rounded(number) for number in (value, *map(more.get, known)))] for (*what, value), more in rows]
    write_csv(path, [first, "tokens", "ratio", "benchmark", "metric", "value", *known], lines)


def _rounded(number: float | None) -> float | str:
    return "" if number is None else round(number, 4)
