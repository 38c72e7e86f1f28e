"""The picture of `budget`: agreement against visual tokens, and beside it the scores."""

from collections.abc import Callable
from pathlib import Path

from llava.eval.budget_table import Budgets, Row
from llava.eval.proportions import LEVEL
from llava.eval.score_picture import set_axes
from llava.files import atomic_writer


def draw(budgets: Budgets, path: Path) -> None:
    """Draw a line for each ratio, in the first panel with a band for the interval, in the others against the unpruned.

    Raises InputError if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(budgets.unpruned.scores)
    figure = Figure(figsize=(max(4.8, 3.6 * (1 + len(names))), 3.6), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
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
    with atomic_writer(path) as file:
        figure.savefig(file.buffer, format="png")  # the bytes below the text file


def _by_ratio(budgets: Budgets) -> dict[float | None, list[Row]]:
    """The rows of each ratio, by their tokens."""
    ratios = dict.fromkeys(row.ratio for row in budgets.rows)
    return {ratio: [row for row in budgets.rows if row.ratio == ratio] for ratio in ratios}


def _draw_lines(ax, budgets: Budgets, value: Callable[[Row], float]) -> None:
    for number, (ratio, rows) in enumerate(_by_ratio(budgets).items()):
        label = str(budgets.about["method"]) if ratio is None else f"ratio {ratio:g}"
        points = [row.tokens for row in rows], [value(row) for row in rows]
        ax.plot(*points, color=f"C{number}", marker="osD^v"[number % 5], markersize=4, linewidth=1.4, label=label)
