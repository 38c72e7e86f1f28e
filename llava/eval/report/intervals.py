"""The table's intervals, and which methods differ at the same budget: the bootstrap of every column."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llava.errors import InputError
from llava.eval.benchmarks.items import Items, items_file, read_items
from llava.eval.report.bootstrap import DRAWS, LEVEL, draw_figures, interval
from llava.eval.report.score_table import (
    ABSENT,
    BLIND,
    Cell,
    Column,
    Setting,
    Share,
    Shares,
    Table,
    columns_of,
)
from llava.pruning.method import NONE, VISPRUNER
from llava.tables import markdown_table, write_csv

MARKS = "↑ better, ↓ worse, ≈ not distinguishable: the interval of the difference holds 0"
BASELINES = ("pool", "uniform")  # methods that do not look at the picture's content


class Difference(NamedTuple):
    """A figure less that of the reference, and the interval of this difference."""

    value: float
    low: float
    high: float

    @property
    def mark(self) -> str:
        """What can be said of its sign."""
        return "↑" if self.low > 0 else "↓" if self.high < 0 else "≈"

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}] {self.mark}"


Pair = tuple[Setting, Setting]  # a method's row and the reference's
Drawn = dict[Setting, tuple[int, np.ndarray]]  # which group of the same questions a row is of, and its draws
Differences = dict[Pair, dict[Column, Difference]]


class Uncertainty(NamedTuple):
    """What the bootstrap gives: the table with intervals, the differences, lines to stand below, and what is wrong.

    `differences` are those from the rows of the reference and of `BASELINES`, `from_unpruned` those from the unpruned
    model, `from_default` those of a row with a suffix from the row without, whose other settings are the defaults;
    `shares` are what is kept of the unpruned model's gain over `blind`. `without` are the score files whose questions'
    results are not known.
    """

    table: Table
    differences: Differences
    from_unpruned: Differences
    from_default: Differences
    shares: Shares
    notes: list[str]
    wrong: list[str]
    without: list[Path]


def choose_reference(methods: list[str]) -> str | None:
    """The method that others are compared with: VisPruner, or without it the first that prunes."""
    pruning = [name for name in methods if name not in (NONE, BLIND)]
    return VISPRUNER if VISPRUNER in pruning else next(iter(pruning), None)


def add_intervals(table: Table, reference: str | None) -> Uncertainty:
    """Intervals of all cells, and the differences from the rows of `reference` (None: no differences).

    A row is compared with the reference's and with those of `BASELINES` of the same tokens, ratio and suffix, the
    unpruned model and `blind` with each. Rows that did not answer the same questions are not compared; a note says so.
    A cell without per-question results has no interval.
    """
    found = Uncertainty({setting: dict(cells) for setting, cells in table.items()}, {}, {}, {}, {}, [], [], [])
    pairs = list(_pairs(table, reference))
    for column in columns_of(table):
        items, missing = _read_column(table, column, found.wrong)
        found.without.extend(missing)
        drawn = _draw_column(items, column, found.notes)
        for setting, (_, draws) in drawn.items():
            found.table[setting][column] = table[setting][column]._replace(interval=interval(draws))
        for pair in pairs:
            _compare(pair, column, drawn, found, is_mark=pair[1].name == reference)
        _compare_whole(column, drawn, found)
    _describe(found, reference)
    return found


def _describe(found: Uncertainty, reference: str | None) -> None:
    """Add to the notes what the brackets and marks mean, and what has no interval."""
    notes, cells = found.notes, [cell for row in found.table.values() for cell in row.values()]
    says = []
    if any(cell.interval for cell in cells):
        says.append(f"In brackets: the {LEVEL} % interval of {DRAWS:,} bootstrap draws of the pictures.")
    if any(cell.mark for cell in cells) or any(base.name == reference for _, base in found.differences):
        says.append(f"Beside it, compared with {reference} at the same tokens and ratio: {MARKS}. See differences.md.")
    for name in BASELINES:
        if any(name in cell.alike for cell in cells):
            says.append(f"≈{name}: not distinguishable from {name} at the same tokens and ratio.")
    notes[:] = dict.fromkeys((*says, *notes))
    if without := found.without:
        says = f"No interval of {len(without)} score(s): there is no {items_file(without[0])}"
        others = f", nor {len(set(without)) - 1} more" if len(set(without)) > 1 else ""
        notes.append(f"{says}{others}; scoring the answers again writes it.")


def _pairs(table: Table, reference: str | None) -> Iterator[Pair]:
    """The rows to compare, each with the reference's of its budget, and with those of the baselines."""
    for base in table:
        if base.name != reference and base.method not in BASELINES:
            continue
        for rival in table:
            is_other = rival.name != base.name and rival.checkpoint == base.checkpoint
            if is_other and (rival.is_unpruned or rival.is_blind or rival.is_comparable(base)):
                yield rival, base


def _read_column(table: Table, column: Column, wrong: list[str]) -> tuple[dict[Setting, list[Items]], list[Path]]:
    """The items of a column, those of each seed, and the score files without; what cannot be read is in `wrong`."""
    items: dict[Setting, list[Items]] = {}
    missing = []
    for setting, cells in table.items():
        try:
            read = [read_cell(run, column) for run in cells[column].runs] if column in cells else []
        except InputError as error:
            wrong.append(str(error))
            continue
        if None in read:
            missing += [score_file(run) for run, found in zip(cells[column].runs, read) if found is None]
        elif read:
            items[setting] = [_with_shared_keys(each, items) for each in read]
    return items, missing


def score_file(cell: Cell) -> Path:
    """The score file that the figure of one run is in."""
    return cell.folder / "merge.score.json"


def read_cell(cell: Cell, column: Column) -> Items | None:
    """The items of the figure of one run; None where there are none. Raises InputError as `read_items` does."""
    return read_items(score_file(cell), column.headline.key, cell.value)


def _with_shared_keys(read: Items, items: Mapping[Setting, list[Items]]) -> Items:
    """The same items; equal keys are one list, since they are the larger part of the memory."""
    for other, *_ in items.values():
        if other.keys == read.keys:
            return read._replace(keys=other.keys)
    return read


def _draw_column(items: dict[Setting, list[Items]], column: Column, notes: list[str]) -> Drawn:
    """The draws of each row, the mean over its seeds: those that answered the same questions are drawn together."""
    drawn: Drawn = {}
    left, group = [], 0
    for row, (first, *others) in items.items():
        if any((other.combine, other.keys) != first[:2] for other in others):
            why = "its seeds did not answer the same questions"
            notes.append(f"No interval of {column.heading} of {_words(row)}: {why}.")
        else:
            left.append(row)
    while left:
        same = [row for row in left if items[row][0][:2] == items[left[0]][0][:2]]
        try:
            draws = iter(draw_figures([each for row in same for each in items[row]]))
        except InputError as error:
            notes.append(f"No interval of {column.heading} of {', '.join(map(_words, same))}: {error}.")
        else:
            drawn |= {row: (group, np.mean([next(draws) for _ in items[row]], axis=0)) for row in same}
        left, group = [row for row in left if row not in same], group + 1
    return drawn


def _compare(pair: Pair, column: Column, drawn: Drawn, found: Uncertainty, is_mark: bool) -> None:
    """Add the difference of two rows in a column, and the mark in the table; or the note that there is none."""
    rival, base = pair
    if rival not in drawn or base not in drawn:
        return
    cells = [found.table[setting][column] for setting in pair]
    if why := _why_not(cells, [drawn[row] for row in pair]):
        found.notes.append(f"Not compared, {column.heading} of {_words(rival)} and of {_words(base)}: {why}.")
        return
    difference = _difference(cells, drawn[rival][1], drawn[base][1])
    found.differences.setdefault(pair, {})[column] = difference
    if rival.is_unpruned or rival.is_blind:  # which are compared with several
        return
    cell = cells[0]
    if is_mark:
        cell = cell._replace(mark=difference.mark)
    if base.method in BASELINES and difference.mark == "≈" and base.method not in cell.alike:
        cell = cell._replace(alike=(*cell.alike, base.method))
    found.table[rival][column] = cell


def _difference(cells: list[Cell], rival: np.ndarray, base: np.ndarray) -> Difference:
    return Difference(cells[0].value - cells[1].value, *interval(rival - base))


def _why_not(cells: list[Cell], drawn: list[tuple[int, np.ndarray]]) -> str:
    """Why runs cannot be compared; "" where they can."""
    if len({group for group, _ in drawn}) > 1:
        return "they did not answer the same questions"
    if not asked_the_same(*cells):
        return "by their merge.settings.json, questions or pictures were not the same"
    return ""


def _compare_whole(column: Column, drawn: Drawn, found: Uncertainty) -> None:
    """Add the differences from the unpruned model and the default settings in a column, and the shares of the gain.

    There is no share where the two do not differ for sure, or did not answer the questions that the row did.
    """
    table = {row: cells[column] for row, cells in found.table.items() if column in cells}
    wholes = {row.checkpoint: row for row in table if row.is_unpruned}
    wholes |= {row.checkpoint: row for row in table if row.method == NONE and row.is_unpruned}
    blinds = {row.checkpoint: row for row in table if row.is_blind}
    for row, cell in table.items():
        whole, blind = wholes.get(row.checkpoint), blinds.get(row.checkpoint)
        if row.is_unpruned:
            continue
        default = replace(row, suffix="") if row.suffix else None
        for base, differences in ((whole, found.from_unpruned), (default, found.from_default)):
            if row in drawn and base in drawn and not _why_not([cell, table[base]], [drawn[row], drawn[base]]):
                difference = _difference([cell, table[base]], drawn[row][1], drawn[base][1])
                differences.setdefault((row, base), {})[column] = difference
        if whole is None or blind is None or row == blind:
            continue
        share = _share(column, [row, whole, blind], table, drawn)
        if isinstance(share, str):
            found.notes.append(f"No share of {column.heading}{share}.")
        else:
            found.shares.setdefault(row, {})[column] = share


def _share(column: Column, rows: list[Setting], table: Mapping[Setting, Cell], drawn: Drawn) -> Share | str:
    """The share that a row keeps of the unpruned model's gain over blind, these three, or why there is none."""
    cells = [table[row] for row in rows]
    score, most, least = (cell.value for cell in cells)
    known = [drawn[row] for row in rows if row in drawn]
    if why := _why_not(cells, known):
        return f" of {_words(rows[0])}: {why}"
    if most <= least:
        return ": the unpruned model is not better than blind"
    share = 100 * (score - least) / (most - least)
    if len(known) < len(rows):
        return Share(share, None)
    of_row, of_whole, of_blind = (draws for _, draws in known)
    gains = of_whole - of_blind
    if interval(gains)[0] <= 0:
        return ": the unpruned model is not distinguishable from blind"
    # A draw without a gain is beyond every share, on the side that the score is on.
    kept = np.divide(of_row - of_blind, gains, out=np.copysign(np.inf, of_row - of_blind), where=gains > 0)
    low, high = (100 * end for end in interval(kept))
    return Share(share, (low, high) if math.isfinite(low) and math.isfinite(high) else None)


def asked_the_same(*cells: Cell) -> bool:
    """Whether runs noted the same questions and pictures, as far as they noted them."""
    every = zip(*{run.shown for cell in cells for run in cell.runs})
    return all(len(set(values) - {None}) <= 1 for values in every)


def _words(setting: Setting) -> str:
    return f"{setting.name} ({setting.budget})"


def differences_markdown(differences: Differences) -> str:
    """The tables of the differences, one for each row that others are compared with, of a method and budget a row."""
    parts, columns = [], columns_of(differences)
    for name in dict.fromkeys(base.name for _, base in differences):
        lines = [["method", "tokens", "ratio", *(column.heading for column in columns)]]
        for (rival, base), row in differences.items():
            if base.name == name:
                cells = [str(row.get(column, ABSENT)) for column in columns]
                lines.append([rival.name, *base.cells[1:], *cells])
        says = f"Differences from {name} at the same number of visual tokens and ratio."
        parts += [markdown_table(lines), "", says, ""]
    says = [
        "`none`, the unpruned model, has all of its tokens in each row, `blind` none.",
        f"In brackets: the {LEVEL} % interval of {DRAWS:,} paired bootstrap draws of the pictures. {MARKS}.",
        f"Of many comparisons, {100 - LEVEL} in 100 are marked ↑ or ↓ by chance where there is no difference.",
    ]
    return "\n".join([*parts, *says]) + "\n"


def write_differences_csv(differences: Differences, path: Path) -> None:
    """One row for each difference, with up to four decimals. Raises InputError if the file cannot be written."""
    rows = [
        [
            *(rival.name, base.name, *base.cells[1:], column.named(column.benchmark), column.headline.key),
            *(round(number, 4) for number in difference),
            "no" if difference.mark == "≈" else "yes",
        ]
        for (rival, base), row in differences.items()
        for column, difference in row.items()
    ]
    header = ["method", "reference", "tokens", "ratio", "benchmark", "metric"]
    write_csv(path, [*header, "difference", "low", "high", "distinguishable"], rows)
