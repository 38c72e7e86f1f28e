"""The table's intervals, and which methods differ at the same budget: the bootstrap of every column."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llava.errors import InputError
from llava.eval.benchmarks.items import Items, items_file, read_items
from llava.eval.report.bootstrap import DRAWS, LEVEL, draw_figures, interval
from llava.eval.report.score_table import ABSENT, Cell, Column, Setting, Table, columns_of, noted
from llava.pruning.method import NONE, VISPRUNER
from llava.tables import markdown_table, write_csv

MARKS = "↑ better, ↓ worse, ≈ not distinguishable: the interval of the difference holds 0"


class Difference(NamedTuple):
    """A figure less that of the reference, and the interval of this difference."""

    value: float
    low: float
    high: float

    @property
    def mark(self) -> str:
        """What can be said of its sign."""
        return "↑" if self.low > 0 else "↓" if self.high < 0 else "≈"


Pair = tuple[Setting, Setting]  # a method's row and the reference's
Drawn = dict[Setting, tuple[int, np.ndarray]]  # which group of the same questions a row is of, and its draws


class Uncertainty(NamedTuple):
    """What the bootstrap gives: the table with intervals, the differences, lines to stand below, and what is wrong.

    `without` are the score files whose questions' results are not known.
    """

    table: Table
    differences: dict[Pair, dict[Column, Difference]]
    notes: list[str]
    wrong: list[str]
    without: list[Path]


def choose_reference(methods: list[str]) -> str | None:
    """The method that others are compared with: VisPruner, or without it the first that prunes."""
    pruning = [name for name in methods if name != NONE]
    return VISPRUNER if VISPRUNER in pruning else next(iter(pruning), None)


def add_intervals(table: Table, reference: str | None) -> Uncertainty:
    """Intervals of all cells, and the differences from the rows of `reference` (None: no differences).

    A row is compared with the reference's of the same tokens and ratio, the unpruned model and `blind` with each. Rows
    that did not answer the same questions are not compared; a note says so. A cell without per-question results has no
    interval.
    """
    found = Uncertainty({setting: dict(cells) for setting, cells in table.items()}, {}, [], [], [])
    pairs = list(_pairs(table, reference))
    for column in columns_of(table):
        items, missing = _read_column(table, column, found.wrong)
        found.without.extend(missing)
        drawn = _draw_column(items, column, found.notes)
        for setting, (_, draws) in drawn.items():
            found.table[setting][column] = table[setting][column]._replace(interval=interval(draws))
        for pair in pairs:
            _compare(pair, column, drawn, found)
    if any(cell.interval for cells in found.table.values() for cell in cells.values()):
        found.notes.insert(0, f"In brackets: the {LEVEL} % interval of {DRAWS:,} bootstrap draws of the pictures.")
    if any(found.differences.values()):
        says = f"Beside it, compared with {reference} at the same tokens and ratio: {MARKS}. See differences.md."
        found.notes.insert(1, says)
    if without := found.without:
        says = f"No interval of {len(without)} score(s): there is no {items_file(without[0])}"
        others = f", nor {len(set(without)) - 1} more" if len(set(without)) > 1 else ""
        found.notes.append(f"{says}{others}; scoring the answers again writes it.")
    return found


def _pairs(table: Table, reference: str | None) -> Iterator[Pair]:
    """The rows to compare, each with the reference's of its budget."""
    for base in (setting for setting in table if setting.name == reference):
        for rival in table:
            if rival.name != reference and (rival.name == NONE or rival.tokens == 0 or rival.is_comparable(base)):
                yield rival, base


def _read_column(table: Table, column: Column, wrong: list[str]) -> tuple[dict[Setting, Items], list[Path]]:
    """The items of a column, and the score files without them; what cannot be read is added to `wrong`."""
    items: dict[Setting, Items] = {}
    missing = []
    for setting, cells in table.items():
        if column not in cells:
            continue
        file = cells[column].folder / "merge.score.json"
        try:
            read = read_items(file, column.headline.key, cells[column].value)
        except InputError as error:
            wrong.append(str(error))
            continue
        if read is None:
            missing.append(file)
            continue
        for other in items.values():  # the keys are the larger part of the memory
            if other.keys == read.keys:
                read = read._replace(keys=other.keys)
                break
        items[setting] = read
    return items, missing


def _draw_column(items: dict[Setting, Items], column: Column, notes: list[str]) -> Drawn:
    """The draws of each row: those that answered the same questions are drawn together."""
    drawn: Drawn = {}
    left, group = list(items), 0
    while left:
        same = [row for row in left if (items[row].combine, items[row].keys) == items[left[0]][:2]]
        try:
            draws = draw_figures([items[row] for row in same])
        except InputError as error:
            notes.append(f"No interval of {column.heading} of {', '.join(map(_words, same))}: {error}.")
        else:
            drawn |= {row: (group, figures) for row, figures in zip(same, draws)}
        left, group = [row for row in left if row not in same], group + 1
    return drawn


def _compare(pair: Pair, column: Column, drawn: Drawn, found: Uncertainty) -> None:
    """Add the difference of two rows in a column, and the mark in the table; or the note that there is none."""
    rival, base = pair
    if rival not in drawn or base not in drawn:
        return
    cells = [found.table[setting][column] for setting in pair]
    if drawn[rival][0] != drawn[base][0]:
        why = "they did not answer the same questions"
    elif not _asked_the_same(*cells):
        why = "by their merge.settings.json, questions or pictures were not the same"
    else:
        low, high = interval(drawn[rival][1] - drawn[base][1])
        difference = Difference(cells[0].value - cells[1].value, low, high)
        found.differences.setdefault(pair, {})[column] = difference
        if rival.name != NONE:  # which is compared with several
            found.table[rival][column] = cells[0]._replace(mark=difference.mark)
        return
    found.notes.append(f"Not compared, {column.heading} of {_words(rival)} and of {_words(base)}: {why}.")


def _asked_the_same(one: Cell, other: Cell) -> bool:
    """Whether two runs noted the same questions and pictures, as far as they noted them."""
    for name in ("question_file", "images"):
        values = [noted(cell.folder, "settings", name) for cell in (one, other)]
        if None not in values and values[0] != values[1]:
            return False
    return True


def _words(setting: Setting) -> str:
    return f"{setting.name} ({setting.budget})"


def differences_markdown(differences: dict[Pair, dict[Column, Difference]], reference: str) -> str:
    """The table of the differences from the reference, a row for each method and budget."""
    columns = columns_of(differences)
    lines = [["method", "tokens", "ratio", *(column.heading for column in columns)]]
    for (rival, base), row in differences.items():
        cells = [
            f"{row[column].value:+.1f} [{row[column].low:+.1f}, {row[column].high:+.1f}] {row[column].mark}"
            if column in row
            else ABSENT
            for column in columns
        ]
        lines.append([rival.name, *base.cells[1:], *cells])
    says = [
        f"Differences from {reference} at the same number of visual tokens and ratio. `none`, the unpruned model, has",
        "all of its tokens in each row.",
        f"In brackets: the {LEVEL} % interval of {DRAWS:,} paired bootstrap draws of the pictures. {MARKS}.",
        f"Of many comparisons, {100 - LEVEL} in 100 are marked ↑ or ↓ by chance where there is no difference.",
    ]
    return "\n".join([markdown_table(lines), "", *says]) + "\n"


def write_differences_csv(differences: dict[Pair, dict[Column, Difference]], path: Path) -> None:
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
