"""The plots of the tables: scores, or agreement, against visual tokens. Without matplotlib there is one warning."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from llava.eval.report.budget_table import Budgets, Row
from llava.eval.report.proportions import LEVEL
from llava.eval.report.score_table import Cell, Setting, Table, columns_of
from llava.files import atomic_writer
from llava.pruning.method import NONE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


logger = logging.getLogger(__name__)


def if_it_can_be_drawn(draw: Callable[..., None]) -> Callable[..., None]:
    """`draw`, whose last argument is the file, with one warning in place of the plot where matplotlib is absent."""

    @wraps(draw)
    def attempt(*args) -> None:
        try:
            draw(*args)
        except ImportError:
            logger.warning("%s is not drawn, that needs matplotlib: pip install -e '.[eval]'", args[-1])

    return attempt


def new_figure(wide: float, high: float) -> Figure:
    """An empty figure of so many inches, of no window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. Raises InputError if the file cannot be written."""
    with atomic_writer(path) as file:
        figure.savefig(file.buffer, format="png")  # the bytes below the text file


@if_it_can_be_drawn
def draw_scores(table: Table, path: Path) -> None:
    """Draw score against tokens: a panel for each column, a line with a band for each name and ratio.

    The unpruned model is a horizontal line where methods are compared with it, or where its tokens are not known; so is
    one that is shown no picture.
    Raises InputError if the file cannot be written.
    """
    columns = columns_of(table)
    lines = list(dict.fromkeys((setting.name, setting.ratio, setting.suffix) for setting in table))
    names = [_legend(*line) for line in lines]
    wide = len(columns) if len(columns) < 5 else min((4, 3, 5), key=lambda width: -len(columns) % width)
    high = math.ceil(len(columns) / wide)
    side_by_side = max(1, int(3.2 * wide / (0.6 + 0.085 * max(map(len, names)))))
    legend_height = 0.3 + 0.19 * math.ceil(len(names) / side_by_side)
    figure = new_figure(3.2 * wide, 2.5 * high + legend_height)
    axes = figure.subplots(high, wide, squeeze=False).flatten()
    shown = {}
    for column, ax in zip(columns, axes):
        ax.set_title(_plain(column.heading), fontsize=8 if column.split else 10)
        ax.set_xlabel("visual tokens", fontsize=8)
        ax.set_ylabel(column.headline.unit, fontsize=8)
        for i, (line, name) in enumerate(zip(lines, names)):
            rows = [row for row in table if (row.name, row.ratio, row.suffix) == line and column in table[row]]
            for drawn in draw_line(ax, rows, [table[row][column] for row in rows], i):
                shown.setdefault(name, drawn)
        set_axes(ax, sorted({row.tokens for row in table if not is_level(row)}))
    for ax in axes[len(columns) :]:
        ax.set_visible(False)
    shown = {name: shown[name] for name in names if name in shown}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=side_by_side, fontsize=8)
    save_figure(figure, path)


def _legend(name: str, ratio: str, suffix: str) -> str:
    if name == NONE:
        return "unpruned"
    return _plain(",".join(filter(None, [name, ratio and f" ratio {ratio}", suffix.replace("_", " ")])))


def _plain(text: str) -> str:
    """A text for matplotlib, in which $ begins a formula."""
    return text.replace("$", r"\$")


def is_level(row: Setting) -> bool:
    """Whether a row is drawn as a horizontal line."""
    return row.name == NONE or not row.tokens


def draw_line(ax, rows: list[Setting], cells: list[Cell], number: int) -> Iterator:
    """Draw the rows of one name and ratio in the style of this number; yields their entry in the legend.

    A band is as wide as the intervals; where a point has none there is a gap.
    """
    color = f"C{number % 10}"
    points = sorted((row.tokens, cell) for row, cell in zip(rows, cells) if not is_level(row))
    if points:
        tokens = [number for number, _ in points]
        style = {"color": color, "marker": "osD^v"[number // 10 % 5], "markersize": 4, "linewidth": 1.4}
        lows, highs = zip(*(cell.interval or (math.nan, math.nan) for _, cell in points))
        ax.fill_between(tokens, lows, highs, color=color, alpha=0.13, linewidth=0)
        ax.vlines(tokens, lows, highs, color=color, alpha=0.35, linewidth=1)
        yield from ax.plot(tokens, [cell.value for _, cell in points], **style)
    for row, cell in zip(rows, cells):
        if is_level(row):
            gray_or_color = "0.35" if row.name == NONE else color
            if cell.interval:
                ax.axhspan(*cell.interval, color=gray_or_color, alpha=0.1, linewidth=0)
            yield ax.axhline(cell.value, color=gray_or_color, linestyle="--", linewidth=1.1)


def set_axes(ax, tokens: list[int]) -> None:
    """A logarithmic axis with a tick at each number of tokens, labelled where there is room; a calm vertical one."""
    ax.tick_params(labelsize=8)
    if tokens:
        set_token_axis(ax, tokens)
    else:
        ax.set_xticks([])
    low, high = ax.get_ylim()
    if high - low < 2:
        ax.set_ylim((low + high) / 2 - 1, (low + high) / 2 + 1)
    ax.ticklabel_format(axis="y", useOffset=False, style="plain")
    ax.grid(alpha=0.3)


def set_token_axis(ax, tokens: list[int]) -> None:
    """The horizontal axis of `set_axes`, for the numbers in ascending order."""
    inches = 2.5 / math.log2(2 * tokens[-1] / tokens[0])
    gaps = [inches * math.log2(right / left) for left, right in itertools.pairwise(tokens)]
    upright = any(gap < 0.04 + 0.07 * len(str(right)) for gap, right in zip(gaps, tokens[1:]))
    labels, room = [str(tokens[0])], 0.0
    for gap, number in zip(gaps, tokens[1:]):
        room += gap
        labels.append(str(number) if room > 0.1 else "")
        room = 0.0 if labels[-1] else room
    ax.set_xscale("log", base=2)
    ax.set_xlim(tokens[0] / math.sqrt(2), tokens[-1] * math.sqrt(2))
    ax.set_xticks(tokens, labels, rotation=90 if upright else 0, fontsize=7 if upright else 8)
    ax.minorticks_off()


@if_it_can_be_drawn
def draw_budgets(budgets: Budgets, path: Path) -> None:
    """Draw a line for each ratio, in the first panel with a band for the interval, in the others against the unpruned.

    Raises InputError if the file cannot be written.
    """
    names = list(budgets.unpruned.scores)
    figure = new_figure(max(4.8, 3.6 * (1 + len(names))), 3.6)
    first, *others = figure.subplots(1, 1 + len(names), squeeze=False)[0]
    _draw_lines(first, budgets, lambda row: 100 * row.agreement)
    for number, rows in enumerate(_by_ratio(budgets).values()):
        low, high = zip(*(row.interval for row in rows))
        tokens = [row.tokens for row in rows]
        first.fill_between(tokens, [100 * x for x in low], [100 * x for x in high], color=f"C{number}", alpha=0.15)
    first.axhline(100 * budgets.wanted, color="0.35", linestyle=":", linewidth=1.1, label="wanted")
    first.set_title(f"answers as unpruned, {100 * LEVEL:.0f} % interval", fontsize=10)
    for name, ax in zip(names, others):
        _draw_lines(ax, budgets, lambda row, name=name: row.scores[name])
        ax.axhline(budgets.unpruned.scores[name], color="0.35", linestyle="--", linewidth=1.1, label="unpruned")
        ax.set_title(name, fontsize=10)
    for ax in (first, *others):
        ax.set_xlabel(f"visual tokens of {budgets.about['patches']}", fontsize=8)
        set_axes(ax, sorted({row.tokens for row in budgets.rows}))
        ax.legend(fontsize=8, loc="lower right")
    first.set_ylabel("%", fontsize=8)
    save_figure(figure, path)


def _by_ratio(budgets: Budgets) -> dict[float | None, list[Row]]:
    """The rows of each ratio, by their tokens."""
    ratios = dict.fromkeys(row.ratio for row in budgets.rows)
    return {ratio: [row for row in budgets.rows if row.ratio == ratio] for ratio in ratios}


def _draw_lines(ax, budgets: Budgets, value: Callable[[Row], float]) -> None:
    for number, (ratio, rows) in enumerate(_by_ratio(budgets).items()):
        label = str(budgets.about["method"]) if ratio is None else f"ratio {ratio:g}"
        points = [row.tokens for row in rows], [value(row) for row in rows]
        ax.plot(*points, color=f"C{number}", marker="osD^v"[number % 5], markersize=4, linewidth=1.4, label=label)
