"""The uncertainty of figures by bootstrap: what they would be on other pictures of the same kind.

The pictures of a benchmark are drawn anew, as many as there are and each as likely, with replacement; what the drawn
pictures' questions gave makes the figure of a draw. Every run is computed on the same draws, so that the difference
between two runs, draw by draw, is one between answers to the same questions (a paired bootstrap). Intervals are
percentiles of the draws: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 10.

Pictures are drawn, not questions, because questions about the same picture are right or wrong together: to draw
questions one by one would make intervals too narrow, most of all in POPE, whose three categories have the same
questions with the answer yes. Pictures are drawn apart where terms of a figure share none: MME's categories keep
their sizes.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from llava.errors import InputError
from llava.eval.benchmarks.items import Items

DRAWS = 10_000
LEVEL = 95  # percent
SEED = 0
CELLS = 1 << 21  # counts at once: 16 MiB
# Amounts are rounded to multiples of this, so that float64 adds them exactly, in any order, up to 8 million: equal runs
# then have equal figures to the last bit.
GRAIN = 2.0**-30


def draw_figures(runs: Sequence[Items]) -> np.ndarray:
    """The figures (R, DRAWS) of R runs, float64, each column on the same drawn pictures.

    A run's row does not depend on the other runs. Raises InputError if the runs did not answer the same questions, or
    some terms stand on one picture, which leaves nothing to draw.
    """
    first = runs[0]
    if any((run.combine, run.keys) != (first.combine, first.keys) for run in runs):
        raise InputError("the runs did not answer the same questions")
    terms, term_of_item = _numbered([term for term, _, _ in first.keys])
    pictures, picture_of_item = _numbered([picture for _, _, picture in first.keys])
    amounts = np.array([(run.parts, run.wholes) for run in runs])  # (R, 2, items)
    amounts = np.round(amounts / GRAIN) * GRAIN
    sums = np.zeros((len(runs), DRAWS))
    generator = np.random.default_rng(SEED)
    for group in _groups(term_of_item, picture_of_item, terms, pictures):
        chosen = np.isin(term_of_item, group)
        local_pictures, rows = np.unique(picture_of_item[chosen], return_inverse=True)
        _, columns = np.unique(term_of_item[chosen], return_inverse=True)
        if len(local_pictures) < 2:
            raise InputError("one picture leaves nothing to draw")
        table = np.zeros((len(local_pictures), len(group), len(runs), 2))
        np.add.at(table, (rows, columns), amounts[:, :, chosen].transpose(2, 0, 1))
        flat = table.reshape(len(table), -1)
        for start, counts in _draw(generator, len(local_pictures)):
            drawn = (counts @ flat).reshape(len(counts), *table.shape[1:])
            parts, wholes = drawn[..., 0], drawn[..., 1]
            ratios = np.divide(100 * parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
            sums[:, start : start + len(counts)] += ratios.sum(axis=1).T
    return sums / (terms if first.combine == "mean" else 1)


def _numbered(names: list[str]) -> tuple[int, np.ndarray]:
    """How many different names there are, and the number of each."""
    numbers: dict[str, int] = {}
    of_each = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    return len(numbers), of_each


def _groups(term_of_item: np.ndarray, picture_of_item: np.ndarray, terms: int, pictures: int) -> Iterator[np.ndarray]:
    """The terms in groups, such that terms of two groups have no picture in common."""
    label, before = np.arange(terms), None
    while before is None or (label != before).any():  # the smallest label spreads by the pictures
        before = label.copy()
        of_picture = np.full(pictures, terms)
        np.minimum.at(of_picture, picture_of_item, label[term_of_item])
        np.minimum.at(label, term_of_item, of_picture[picture_of_item])
    for number in np.unique(label):
        yield np.flatnonzero(label == number)


def _draw(generator: np.random.Generator, pictures: int) -> Iterator[tuple[int, np.ndarray]]:
    """How often each picture is drawn, (draws, pictures) as float64, some draws at a time after the first's number."""
    at_once = max(1, CELLS // pictures)
    for start in range(0, DRAWS, at_once):
        drawn = generator.integers(pictures, size=(min(at_once, DRAWS - start), pictures))
        yield start, np.array([np.bincount(row, minlength=pictures) for row in drawn], dtype=np.float64)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The interval (low, high) that holds the middle LEVEL percent of draws (DRAWS,)."""
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
