"""VTC-Bench's split (arXiv 2510.07143): a method on the questions that downsampling fails, and on the others.

Group A has the questions that are right unpruned and wrong downsampled, group B those that are right both times; what
is wrong unpruned is in neither. Downsampling is a row of the table: of LLaVA, whose tower has a fixed size, `pool`.

A question that has part of its points counts as right from a half on, so that the unpruned model has 100 % of both
groups by definition, downsampling 0 % of A and 100 % of B.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llava.errors import InputError
from llava.eval.benchmarks.items import Items, items_file
from llava.eval.report.intervals import asked_the_same, read_cell, score_file
from llava.eval.report.score_table import ABSENT, Cell, Column, Setting, Table, columns_of
from llava.tables import markdown_table, write_csv

Key = tuple[str, str, str]  # term, id, picture


class Groups(NamedTuple):
    """The accuracies of a row in the two groups, in percent (None: of no question), and the groups' sizes."""

    a: float | None
    b: float | None
    of_a: int
    of_b: int


Split = dict[Setting, dict[Column, Groups]]


def right_answers(items: Items) -> dict[Key, bool]:
    """Whether each question is right. Of a figure that is a sum, terms that count pictures are left out."""
    right, of_pictures = {}, {}
    for key, part, whole in zip(items.keys, items.parts, items.wholes):
        term, number, picture = key
        right[key] = 2 * part >= whole  # POPE's true no has 0 of 0
        of_pictures[term] = of_pictures.get(term, True) and number == picture
    if items.combine == "sum":
        right = {key: hit for key, hit in right.items() if not of_pictures[key[0]]}
    return right


def split_by(table: Table, by: str) -> Split:
    """The groups of each row that prunes, less those of `by`, the label of the method that stands for downsampling.

    A row is split by the unpruned model's answers and by those of `by` at the same tokens, ratio and suffix. Questions
    are paired by their ids. Raises InputError if one of these rows, a score or the results of its questions are
    missing, or if they did not answer the same questions.
    """
    rows = [row for row in table if not (row.is_unpruned or row.is_blind or row.method == by)]
    if not rows:
        raise InputError(f"--split-by {by}: there is no row of another method to split")
    found: Split = {}
    for row in rows:
        own = [other for other in table if other.checkpoint == row.checkpoint]
        whole = next((other for other in own if other.is_unpruned), None)
        smaller = [other for other in own if other.method == by and row.is_comparable(other)]
        small = min(smaller, key=lambda other: other.asked != row.asked, default=None)
        for what, other in (("the unpruned model", whole), (by, small)):
            if other is None:
                raise InputError(f"--split-by {by}: no row of {what} for {row.name} ({row.budget})")
        found[row] = {column: _groups(column, table, [row, whole, small], by) for column in columns_of(table)}
    return found


def _groups(column: Column, table: Table, rows: list[Setting], by: str) -> Groups:
    where = f"--split-by {by}: {column.heading} of"
    for row in rows:
        if column not in table[row]:
            raise InputError(f"{where} {row.name} ({row.budget}) has no score")
    cells = [table[row][column] for row in rows]
    of_seeds, (whole, *_), (small, *_) = ([_read(run, column, where) for run in cell.runs] for cell in cells)
    if not asked_the_same(*cells) or any(each.keys() != whole.keys() for each in (*of_seeds, small)):
        names = ", ".join(f"{row.name} ({row.budget})" for row in rows)
        raise InputError(f"{where} {names}: they did not answer the same questions")
    group_a = [key for key, hit in whole.items() if hit and not small[key]]
    group_b = [key for key, hit in whole.items() if hit and small[key]]
    return Groups(_accuracy(group_a, of_seeds), _accuracy(group_b, of_seeds), len(group_a), len(group_b))


def _read(run: Cell, column: Column, where: str) -> dict[Key, bool]:
    items = read_cell(run, column)
    if items is None:
        raise InputError(f"{where} {run.folder}: there is no {items_file(score_file(run))}")
    return right_answers(items)


def _accuracy(group: list[Key], of_seeds: list[dict[Key, bool]]) -> float | None:
    """The percentage of right answers in a group, the mean over the seeds."""
    if not group:
        return None
    return statistics.fmean(100 * sum(map(right.__getitem__, group)) / len(group) for right in of_seeds)


def split_markdown(split: Mapping[Setting, Mapping[Column, Groups]], by: str, first: str) -> str:
    """The table, two columns for each figure: accuracy in percent, and in brackets how many questions."""
    columns = columns_of(split)
    headings = [f"{column.heading} {group}" for column in columns for group in "AB"]
    lines = [[first, "tokens", "ratio", *headings]]
    for row, groups in split.items():
        found = [groups[column] for column in columns]
        pairs = [pair for each in found for pair in ((each.a, each.of_a), (each.b, each.of_b))]
        lines.append([*row.cells, *(f"{ABSENT if value is None else f'{value:.1f}'} ({of})" for value, of in pairs)])
    says = [
        f"Accuracy in percent on the questions that are right unpruned and wrong by {by} (A), and on those that are",
        "right by both (B), at the same tokens and ratio; in brackets how many. What is wrong unpruned is in neither.",
    ]
    return "\n".join([markdown_table(lines), "", *says]) + "\n"


def write_split_csv(split: Mapping[Setting, Mapping[Column, Groups]], path: Path, first: str) -> None:
    """One row for each row, figure and group. Raises InputError if the file cannot be written."""
    rows = [
        [*row.cells, column.named(column.benchmark), column.headline.key, name, "" if value is None else value, of]
        for row, of_row in split.items()
        for column, groups in of_row.items()
        for name, value, of in (("A", groups.a, groups.of_a), ("B", groups.b, groups.of_b))
    ]
    write_csv(path, [first, "tokens", "ratio", "benchmark", "metric", "group", "accuracy", "questions"], rows)
