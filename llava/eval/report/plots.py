"""Every plot of the package: scores, agreement, time and memory against visual tokens, and what rounding moves.

Without matplotlib there is one warning. Colours are those of Okabe and Ito, which colour-blind readers tell apart.
Lines differ by their marker too, and stand a little beside one another, so that none hides another.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.eval.report.budget_table import Budgets, Row
from llava.eval.report.proportions import LEVEL
from llava.eval.report.score_table import Cell, Setting, Table, columns_of
from llava.files import atomic_writer
from llava.pruning.method import METHOD_NAMES, NONE, VISPRUNER

if TYPE_CHECKING:
    from matplotlib.figure import Figure


logger = logging.getLogger(__name__)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00")
MARKERS = "osD^vP*"
GRAY = "0.35"  # of what the lines are compared with


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


def line_style(number: int) -> dict[str, Any]:
    """How the line of this number looks."""
    color, marker = COLORS[number % len(COLORS)], MARKERS[(number + number // len(COLORS)) % len(MARKERS)]
    return {"color": color, "marker": marker, "markersize": 4.5, "linewidth": 1.3}


def beside(number: int, of: int) -> float:
    """By how much the points of a line stand to the side of their tokens, as a factor."""
    return 2 ** (min(0.08, 0.3 / of) * (number - (of - 1) / 2))


def draw_points(
    ax, tokens: list[int], values: list[float], ends: list[tuple[float, float]], number: int, of: int = 1
) -> Iterator:
    """Draw line `number` of so many with a bar at each point from the low to the high end; yields it for a legend.

    A bar of NaN is not drawn. Lines stand side by side on the logarithmic axis.
    """
    places, style = [token * beside(number, of) for token in tokens], line_style(number)
    ax.vlines(places, *zip(*ends), color=style["color"], alpha=0.55, linewidth=1.2)
    yield from ax.plot(places, values, **style)


@if_it_can_be_drawn
def draw_scores(table: Table, path: Path) -> None:
    """Draw score against tokens: a panel for each column, a line for each name and ratio, its intervals as bars.

    The unpruned model is a dashed line, and so is one that is shown no picture, or whose tokens are not known.
    Raises InputError if the file cannot be written.
    """
    columns = columns_of(table)
    lines = list(dict.fromkeys((setting.name, setting.ratio, setting.suffix) for setting in table))
    lines.sort(key=lambda line: is_unpruned(line[0]))  # last, since it stands beside none
    names = [_legend(*line) for line in lines]
    apart = sum(not is_unpruned(name) for name, *_ in lines)
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
        ax.set_ylabel(f"score, {column.headline.unit}", fontsize=8)
        for i, (line, name) in enumerate(zip(lines, names)):
            rows = [row for row in table if (row.name, row.ratio, row.suffix) == line and column in table[row]]
            for drawn in draw_line(ax, rows, [table[row][column] for row in rows], i, apart):
                shown.setdefault(name, drawn)
        set_axes(ax, sorted({row.tokens for row in table if not is_level(row)}))
    for ax in axes[len(columns) :]:
        ax.set_visible(False)
    shown = {name: shown[name] for name in names if name in shown}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=side_by_side, fontsize=8)
    save_figure(figure, path)


def _legend(name: str, ratio: str, suffix: str) -> str:
    """Checkpoint, method and ratio, as far as the row's name has them; a checkpoint's name alone is VisPruner's."""
    if is_unpruned(name):
        return " ".join(filter(None, [_plain(name.removesuffix(NONE).removesuffix("-")), "unpruned"]))
    method = next((method for method in METHOD_NAMES if name == method or name.endswith(f"-{method}")), "")
    method, checkpoint = method or VISPRUNER * bool(ratio), name.removesuffix(method).removesuffix("-")
    of = " ".join(filter(None, [checkpoint, method]))
    return _plain(", ".join(filter(None, [of, ratio and f"ratio {ratio}", suffix.strip("_").replace("_", " ")])))


def _plain(text: str) -> str:
    """A text for matplotlib, in which $ begins a formula."""
    return text.replace("$", r"\$")


def is_unpruned(name: str) -> bool:
    """Whether a row's name, of a method or of a checkpoint with one, is that of the unpruned model."""
    return name == NONE or name.endswith(f"-{NONE}")


def is_level(row: Setting) -> bool:
    """Whether a row is drawn as a horizontal line."""
    return is_unpruned(row.name) or not row.tokens


def draw_line(ax, rows: list[Setting], cells: list[Cell], number: int, of: int = 1) -> Iterator:
    """Draw the rows of one name and ratio in the style of this number, of so many; yields their entry in the legend."""
    points = sorted((row.tokens, cell) for row, cell in zip(rows, cells) if not is_level(row))
    if points:
        ends = [cell.interval or (math.nan, math.nan) for _, cell in points]
        values = [cell.value for _, cell in points]
        yield from draw_points(ax, [tokens for tokens, _ in points], values, ends, number, of)
    for row, cell in zip(rows, cells):
        if is_level(row):
            color = GRAY if is_unpruned(row.name) else line_style(number)["color"]
            if cell.interval:
                ax.axhspan(*cell.interval, color=color, alpha=0.1, linewidth=0)
            yield ax.axhline(cell.value, color=color, linestyle="--", linewidth=1.1)


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
    """Draw agreement with its intervals against tokens, then each score beside the unpruned one; the chosen are marked.

    Raises InputError if the file cannot be written.
    """
    names, by_ratio = list(budgets.unpruned.scores), _by_ratio(budgets)
    figure = new_figure(max(4.8, 3.8 * (1 + len(names))), 4.2)
    first, *others = figure.subplots(1, 1 + len(names), squeeze=False)[0]
    for number, rows in enumerate(by_ratio.values()):
        ends = [tuple(100 * end for end in row.interval) for row in rows]
        tokens, values = [row.tokens for row in rows], [100 * row.agreement for row in rows]
        list(draw_points(first, tokens, values, ends, number, len(by_ratio)))
        for name, ax in zip(names, others):
            ax.plot(tokens, [row.scores[name] for row in rows], **line_style(number))
    shown = dict(zip(map(partial(_ratio_label, budgets), by_ratio), first.get_lines()))
    shown["agreement wanted"] = first.axhline(100 * budgets.wanted, color=GRAY, linestyle=":", linewidth=1.2)
    for name, ax in zip(names, others):
        ax.set_title(name, fontsize=10)
        ax.set_ylabel(f"{name}, on the sample", fontsize=8)
        shown["unpruned"] = ax.axhline(budgets.unpruned.scores[name], color=GRAY, linestyle="--", linewidth=1.1)
    for label, row, size in (("estimate", budgets.by_estimate, 15), ("interval", budgets.by_interval, 10)):
        if row is not None:
            place = row.tokens * beside(list(by_ratio).index(row.ratio), len(by_ratio))
            ring = first.plot(place, 100 * row.agreement, "ko", markersize=size, markerfacecolor="none")[0]
            shown[f"chosen by its {label}: {row.tokens}, {_ratio_label(budgets, row.ratio)}"] = ring
    first.set_title("answers as unpruned", fontsize=10)
    first.set_ylabel(f"% of the answers, {100 * LEVEL:.0f} % interval", fontsize=8)
    for ax in (first, *others):
        ax.set_xlabel(f"visual tokens kept of {budgets.about['patches']}", fontsize=8)
        set_axes(ax, sorted({row.tokens for row in budgets.rows}))
    columns = 2 if len(names) == 0 else 2 * len(names) + 1
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns, fontsize=8)
    save_figure(figure, path)


def _by_ratio(budgets: Budgets) -> dict[float | None, list[Row]]:
    """The rows of each ratio, by their tokens."""
    ratios = dict.fromkeys(row.ratio for row in budgets.rows)
    return {ratio: [row for row in budgets.rows if row.ratio == ratio] for ratio in ratios}


def _ratio_label(budgets: Budgets, ratio: float | None) -> str:
    return str(budgets.about["method"]) if ratio is None else f"ratio {ratio:g}"


@if_it_can_be_drawn
def draw_bench(about: dict, rows: list[dict], path: Path) -> None:
    """Draw time and memory against visual tokens, least to most as bars; the unpruned model, the first row, is dashed.

    What no row changes by 2 % is said below and not drawn. Raises InputError if the file cannot be written.
    """
    answer = f"answer of {about['answer_tokens']} tokens, ms"
    panels = {
        "first token, ms": lambda row: row["first token"],
        answer: lambda row: row["answer"],
        "KV cache, MiB": lambda row: dict.fromkeys(SPREAD, row["kv_cache_bytes"] / 2**20),
        "peak memory, GiB": lambda row: dict.fromkeys(SPREAD, row["peak_memory_bytes"] / 2**30),
    }
    flat = [name for name, of in panels.items() if _is_flat([of(row)["median"] for row in rows])]
    panels = {name: of for name, of in panels.items() if name not in flat}
    methods = list(dict.fromkeys(row["method"] for row in rows[1:]))
    figure = new_figure(3.6 * max(2, len(panels)), 4)
    for ax, (name, of) in zip(figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels.items()):
        shown = {f"all {rows[0]['visual_tokens']}": ax.axhline(of(rows[0])["median"], color=GRAY, linestyle="--")}
        for number, method in enumerate(methods):
            own = sorted((row for row in rows[1:] if row["method"] == method), key=lambda row: row["visual_tokens"])
            median, least, most = ([of(row)[key] for row in own] for key in SPREAD)
            tokens = [row["visual_tokens"] for row in own]
            (shown[method],) = draw_points(ax, tokens, median, list(zip(least, most)), number, len(methods))
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("visual tokens", fontsize=8)
        ax.set_ylim(0, 1.08 * max(of(row)["most"] for row in rows))
        set_axes(ax, sorted({row["visual_tokens"] for row in rows[1:]}))
    if panels:
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=6, fontsize=8)
    same = "".join(f"\nthe same in every row: {name.partition(',')[0]}" for name in flat)
    title = f"{about['model']} in {about['dtype']} on {about['machine']}, batch of {about['batch']}"
    figure.suptitle(f"{title}: median of {about['rounds']} rounds, bars from the least to the most{same}", fontsize=9)
    save_figure(figure, path)


SPREAD = ("median", "least", "most")


def _is_flat(values: list[float]) -> bool:
    return max(values) - min(values) <= 0.02 * max(values)


@if_it_can_be_drawn
def draw_rounding(rows: dict[str, list[dict]], path: Path) -> None:
    """Draw, for each benchmark and method, the share of patches that rounding leaves, and the spread of the scores.

    Both are in percent, methods from above in the order of the rows. Raises InputError if the file cannot be written.
    """
    methods = list(dict.fromkeys(row["method"] for row in next(iter(rows.values()))))
    figure = new_figure(8, 1.0 + 2 * 0.34 * len(methods))
    shown = {}
    for (name, measured), (left, right) in zip(rows.items(), figure.subplots(len(rows), 2, squeeze=False)):
        dtypes = list(dict.fromkeys(row["dtype"] for row in measured))
        for row in measured:
            number = dtypes.index(row["dtype"])
            style = line_style(number)
            place = methods.index(row["method"]) + 0.24 * (number - (len(dtypes) - 1) / 2)
            scores = [row["score"], *row["scores"]]
            (shown[row["dtype"]],) = left.plot(100 * row["with_float32"], place, **style, linestyle="none")
            right.hlines(place, min(scores), max(scores), color=style["color"], linewidth=2.5, alpha=0.5)
            right.plot(row["score"], place, **style)
        left.set_title(f"{name}: patches kept as with float32, %", fontsize=9)
        left.set_xlim(min(70, 100 * min(row["with_float32"] for row in measured)) - 1, 101)
        right.set_title(f"{name}: score, %; least to most of the seeds", fontsize=9)
        right.set_yticks([])
        left.set_yticks(range(len(methods)), methods)
        for ax in (left, right):
            ax.tick_params(labelsize=8)
            ax.set_ylim(len(methods) - 0.5, -0.5)
            ax.grid(axis="x", alpha=0.3)
            ax.set_axisbelow(True)
            for edge in range(len(methods) - 1):
                ax.axhline(edge + 0.5, color="0.85", linewidth=0.6)
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=len(shown), fontsize=8)
    save_figure(figure, path)
