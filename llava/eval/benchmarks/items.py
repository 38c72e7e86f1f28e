"""What each question gave: the per-question results that a figure is made of, and their file beside the score file.

A figure is the mean or the sum of its terms, and a term is 100 times the sum of the items' parts over the sum of their
wholes. An accuracy has one term, to which a question gives its hit of 1. POPE's mean F1 has a term for each category,
to which a question gives 2 of 2 (a true yes), 0 of 1 (a false answer) or 0 of 0 (a true no). MME's points are the sum
of two terms for each category, one over questions and one over pictures.

Each item belongs to a picture. Questions about the same picture are right or wrong together, so that pictures are what
the bootstrap draws.
"""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from llava.errors import InputError
from llava.files import atomic_writer, read_text


class Items(NamedTuple):
    """The per-question results behind one figure, four columns in one order.

    Attributes:
        combine: whether the figure is the mean or the sum of its terms.
        keys: (term, id, picture) of each item, in ascending order. What two runs answered is the same if these are.
        parts, wholes: what each item adds to the two sums of its term.
    """

    combine: Literal["mean", "sum"]
    keys: list[tuple[str, str, str]]
    parts: list[float]
    wholes: list[float]

    @property
    def figure(self) -> float:
        """The figure, to the last bit whatever the order of the items; a term whose whole is 0 counts 0."""
        sums: dict[str, tuple[list, list]] = defaultdict(lambda: ([], []))
        for (term, _, _), part, whole in zip(self.keys, self.parts, self.wholes):
            sums[term][0].append(part)
            sums[term][1].append(whole)
        terms = [100 * math.fsum(parts) / math.fsum(wholes) if any(wholes) else 0.0 for parts, wholes in sums.values()]
        return math.fsum(terms) / (len(terms) if self.combine == "mean" else 1)


# (id, picture, part, whole)
Item = tuple[str, str, float, float]


def make_items(terms: Mapping[str, Iterable[Item]], combine: Literal["mean", "sum"] = "mean") -> Items:
    """The items of a figure from those of each of its terms, in any order.

    Raises InputError if there is none, or an id stands in a term twice.
    """
    rows = sorted((term, *item) for term, items in terms.items() for item in items)
    if not rows:
        raise InputError("there is no question behind the figure")
    for one, other in itertools.pairwise(rows):
        if one[:2] == other[:2]:
            raise InputError(f"{one[1]!r} stands there twice")
    return Items(combine, [row[:3] for row in rows], [float(row[3]) for row in rows], [float(row[4]) for row in rows])


def accuracy_items(ids: Iterable, pictures: Iterable, hits: Iterable[float]) -> Items:
    """The items of an accuracy; the three run in parallel: each question's id, its picture, and its hit in [0, 1]."""
    rows = zip(map(str, ids), map(str, pictures), hits, strict=True)
    return make_items({"accuracy": [(number, picture, hit, 1) for number, picture, hit in rows]})


def items_file(score_file: Path) -> Path:
    """Where the items behind the figures of a score file lie: merge.score.json -> merge.items.json."""
    return score_file.with_name(f"{score_file.name.removesuffix('.json').removesuffix('.score')}.items.json")


def write_items(items: Mapping[str, Items], score_file: Path) -> None:
    """Write the items of figures, by their keys in the score file. Raises InputError if they cannot be written."""
    figures = {}
    for name, of_figure in items.items():
        terms = defaultdict(list)
        for (term, number, picture), part, whole in zip(of_figure.keys, of_figure.parts, of_figure.wholes):
            terms[term].append([number, picture, part, whole])
        figures[name] = {"combine": of_figure.combine, "terms": terms}
    with atomic_writer(items_file(score_file)) as file:
        file.write(json.dumps(figures, separators=(",", ":")))


def read_items(score_file: Path, name: str, figure: float) -> Items | None:
    """The items of one figure of a score file; None where there are none.

    Raises InputError if their file is not of its form, or they do not give the figure that the score file has: then
    one of the two files is of other answers.
    """
    from pydantic import ValidationError

    from llava.eval.benchmarks.rows import FigureItems, adapter, first_fault

    file = items_file(score_file)
    if not file.exists():
        return None
    where = f"items file {file}"
    try:
        figures = adapter(dict[str, FigureItems]).validate_json(read_text(file, "items file"), strict=True)
    except ValidationError as error:
        raise InputError(f"{where}: {first_fault(error)}") from None
    if name not in figures:
        return None
    try:
        items = make_items(figures[name]["terms"], figures[name]["combine"])
    except InputError as error:
        raise InputError(f"{where}: {name}: {error}") from None
    if items.figure != figure:
        raise InputError(f"{where}: {name} is {items.figure}, in {score_file.name} {figure}: score the answers again")
    return items
