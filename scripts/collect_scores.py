"""Collect the scores that the recipes left below OUT_DIR into one table: scores.md, scores.csv, scores.png.

python scripts/collect_scores.py --out-dir DIR [--checkpoint NAME] [--tokens 128 64 32] [--output FOLDER]
With --methods the rows are one checkpoint's pruning methods: --checkpoint NAME --methods vispruner divprune mine.py
"""

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llava.eval.benchmarks import BENCHMARKS, Headline
from llava.eval.files import require_fields
from llava.pruning.registry import NONE, VISPRUNER, check_pruning_method, method_label
from llava.utils import CommandParser, InputError, atomic_writer, read_json_object, run_command

HEADLINES = {benchmark.name: benchmark.headlines for benchmark in BENCHMARKS}
COLUMNS = [(name, headline) for name, headlines in HEADLINES.items() for headline in headlines]
# GQA's predictions are left out: its own scorer gives the score that is missing here.
SUBMISSIONS = {entry.name: entry.submission for entry in BENCHMARKS if (entry.submission or "").startswith("merge.")}
ABSENT = "–"
NOTE = "MME in points, the others in percent. Tokens: visual tokens kept of a picture, in LLaVA-1.6 of each crop."


class Setting(NamedTuple):
    """What a row of the table is about. The ratio is as its folder spells it.

    `name` is the checkpoint's or, where methods are compared, the method's. `tokens` is how many were kept, as far as
    is known of an unpruned model (None).
    """

    name: str
    tokens: int | None
    ratio: str

    @property
    def order(self) -> tuple:
        """Sorts by name, then from many tokens to few, then by ratio."""
        return self.name, -math.inf if self.tokens is None else -self.tokens, float(self.ratio)

    @property
    def cells(self) -> list[str]:
        """As the table shows it."""
        return [self.name, "all" if self.tokens is None else str(self.tokens), self.ratio]


class Run(NamedTuple):
    """A folder of merged answers. `asked` is the budget that it is named after, None where nothing was pruned."""

    benchmark: str
    split: str
    setting: Setting
    asked: int | None
    folder: Path


class Column(NamedTuple):
    """A headline; `split` is empty unless several splits of the benchmark were scored."""

    benchmark: str
    headline: Headline
    split: str

    def named(self, name: str) -> str:
        """`name`, with the split where there are several."""
        return f"{name} ({self.split})" if self.split else name


Table = dict[Setting, dict[Column, float]]


def find_runs(out_dir: Path) -> Iterator[Run]:
    """The folders that the recipes made below `out_dir` and that hold merged answers, a score or a submission."""
    for benchmark in HEADLINES:
        for folder in sorted(out_dir.glob(f"{benchmark}/answers/*/*/n_*/r_*")):
            split, checkpoint, tokens, ratio = folder.parts[-4:]
            tokens, ratio = tokens.removeprefix("n_"), ratio.removeprefix("r_")
            names = ("merge.jsonl", "merge.score.json", SUBMISSIONS.get(benchmark, "merge.jsonl"))
            done = any((folder / name).is_file() for name in names)
            if done and (tokens.isdecimal() or tokens == "all") and ratio.replace(".", "", 1).isdecimal():
                asked = None if tokens == "all" or _noted(folder, "settings", "pruning_method") == NONE else int(tokens)
                yield Run(benchmark, split, Setting(checkpoint, kept_tokens(folder, asked), ratio), asked, folder)


def kept_tokens(folder: Path, asked: int | None) -> int | None:
    """How many visual tokens the answers of a folder were made with: what the run noted, else the budget."""
    kept = _noted(folder, "run", "kept")
    return kept if isinstance(kept, int) and not isinstance(kept, bool) else asked


def _noted(folder: Path, kind: str, name: str):
    """What a file beside the answers says under `name`; None where it says nothing."""
    file = folder / f"merge.{kind}.json"
    return read_json_object(file, f"{kind} of the answers").get(name) if file.is_file() else None


def compare_methods(runs: list[Run], checkpoint: str, methods: list[str]) -> list[Run]:
    """The runs of one checkpoint by these methods, named after them."""
    folders = {checkpoint if name == VISPRUNER else f"{checkpoint}-{name}": name for name in methods}
    return [
        run._replace(setting=run.setting._replace(name=folders[run.setting.name]))
        for run in runs
        if run.setting.name in folders
    ]


def read_headlines(file: Path, benchmark: str) -> dict[Headline, float]:
    """A score file's headline figures, less those that it says do not exist (null).

    Raises InputError, naming the file, if it is not such a score file.
    """
    headlines = HEADLINES[benchmark]
    scores = read_json_object(file, "score file")
    require_fields(scores, [headline.key for headline in headlines], f"score file {file}")
    found = {headline: scores[headline.key] for headline in headlines if scores[headline.key] is not None}
    for headline, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"score file {file}: {headline.key} is {value!r}, not a number")
    return found


def collect(runs: list[Run], names: list[str]) -> tuple[Table, list[tuple[Run, Path]], list[str]]:
    """The table, the submission files of runs that have no score, and what is wrong with the rest.

    Rows are in the order of `names`, and after that of the settings.
    """
    scored: list[tuple[Run, dict[Headline, float]]] = []
    submissions, wrong = [], []
    for run in runs:
        file = run.folder / "merge.score.json"
        submission = run.folder / SUBMISSIONS.get(run.benchmark, "")
        if submission.is_file() and not file.exists():
            submissions.append((run, submission))
            continue
        try:
            if not file.exists():
                raise InputError(f"no {file}: the answers beside it are not scored")
            scored.append((run, read_headlines(file, run.benchmark)))
        except InputError as error:
            wrong.append(str(error))
    splits: dict[str, set[str]] = {}
    for run, _ in scored:
        splits.setdefault(run.benchmark, set()).add(run.split)
    settings = sorted({run.setting for run, _ in scored}, key=lambda row: (names.index(row.name), row.order))
    table: Table = {setting: {} for setting in settings}
    for run, found in scored:
        split = run.split if len(splits[run.benchmark]) > 1 else ""
        table[run.setting] |= {Column(run.benchmark, headline, split): value for headline, value in found.items()}
    return table, submissions, wrong


def columns_of(table: Table) -> list[Column]:
    """The columns that have something in them, in the order of COLUMNS."""
    found = {column for cells in table.values() for column in cells}
    return sorted(found, key=lambda column: (COLUMNS.index(column[:2]), column.split))


def markdown(table: Table, submissions: list[tuple[Run, Path]], first: str) -> str:
    """The table with one decimal, aligned to be read as it is, and below it the submission files without a score.

    `first` is the heading of the first column.
    """
    columns = columns_of(table)
    parts = []
    if columns:
        lines = [[first, "tokens", "ratio", *(column.named(column.headline.heading) for column in columns)]]
        for setting, cells in table.items():
            numbers = [f"{cells[column]:.1f}" if column in cells else ABSENT for column in columns]
            lines.append([*setting.cells, *numbers])
        widths = [max(map(len, column)) for column in zip(*lines)]
        lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
        for line in lines:
            cells = [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
            parts.append(f"| {' | '.join(cells)} |")
        parts += ["", NOTE]
    if submissions:
        parts += [""] * bool(parts) + ["Without a local score, to be submitted:", ""]
        for run, file in sorted(submissions, key=lambda entry: entry[0].setting.order):
            name, tokens, ratio = run.setting.cells
            parts.append(f"- {run.benchmark}, {name}, {tokens} tokens, ratio {ratio}: `{file}`")
    return "\n".join(parts) + "\n"


def write_csv(table: Table, path: Path, first: str) -> None:
    """One row for each score, with up to four decimals. Raises InputError if the file cannot be written."""
    with atomic_writer(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([first, "tokens", "ratio", "benchmark", "metric", "value"])
        for setting, cells in table.items():
            for column in filter(cells.__contains__, columns_of(table)):
                benchmark = column.named(column.benchmark)
                writer.writerow([*setting.cells, benchmark, column.headline.key, round(cells[column], 4)])


def write_picture(table: Table, path: Path) -> None:
    """Draw score against tokens: a panel for each column, a line for each name and ratio.

    The unpruned model is a horizontal line where methods are compared with it, or where its tokens are not known.
    Raises ImportError where matplotlib is not installed, InputError if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = columns_of(table)
    lines = list(dict.fromkeys((setting.name, setting.ratio) for setting in table))
    names = ["unpruned" if name == NONE else f"{name}, ratio {ratio}" for name, ratio in lines]
    wide = len(columns) if len(columns) < 5 else min((4, 3, 5), key=lambda width: -len(columns) % width)
    high = math.ceil(len(columns) / wide)
    side_by_side = max(1, int(3.2 * wide / (0.6 + 0.085 * max(map(len, names)))))
    legend_height = 0.3 + 0.19 * math.ceil(len(names) / side_by_side)
    figure = Figure(figsize=(3.2 * wide, 2.5 * high + legend_height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, squeeze=False).flatten()
    shown = {}
    for column, ax in zip(columns, axes):
        ax.set_title(column.named(column.headline.heading), fontsize=8 if column.split else 10)
        ax.set_xlabel("visual tokens", fontsize=8)
        ax.set_ylabel(column.headline.unit, fontsize=8)
        for i, (line, name) in enumerate(zip(lines, names)):
            rows = [row for row in table if (row.name, row.ratio) == line and column in table[row]]
            for drawn in draw_line(ax, rows, [table[row][column] for row in rows], i):
                shown.setdefault(name, drawn)
        set_axes(ax, sorted({row.tokens for row in table if not is_level(row)}))
    for ax in axes[len(columns) :]:
        ax.set_visible(False)
    shown = {name: shown[name] for name in names if name in shown}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=side_by_side, fontsize=8)
    with atomic_writer(path) as file:
        figure.savefig(file.buffer, format="png")  # the bytes below the text file


def is_level(row: Setting) -> bool:
    """Whether a row is drawn as a horizontal line."""
    return row.name == NONE or row.tokens is None


def draw_line(ax, rows: list[Setting], values: list[float], number: int) -> Iterator:
    """Draw the rows of one name and ratio in the style of this number; yields what stands for them in the legend."""
    color = f"C{number % 10}"
    points = sorted((row.tokens, value) for row, value in zip(rows, values) if not is_level(row))
    if points:
        style = {"color": color, "marker": "osD^v"[number // 10 % 5], "markersize": 4, "linewidth": 1.4}
        yield from ax.plot(*zip(*points), **style)
    for row, value in zip(rows, values):
        if is_level(row):
            yield ax.axhline(value, color="0.35" if row.name == NONE else color, linestyle="--", linewidth=1.1)


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


def method(text: str) -> str:
    """Command-line form of a method: its label, of a name, a `.py` file or a module."""
    try:
        check_pruning_method(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return method_label(text)


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(description="Collect the recipes' scores into one table and one picture.")
    parser.add_argument("--out-dir", required=True, type=Path, help="the recipes' OUT_DIR")
    parser.add_argument("--checkpoint", help="only this one (all)")
    parser.add_argument("--tokens", type=int, nargs="+", help="only these numbers of visual tokens (all)")
    parser.add_argument(
        "--methods", type=method, nargs="+", help="compare these of the checkpoint's; `none` is there at any --tokens"
    )
    parser.add_argument("--benchmarks", choices=HEADLINES, nargs="+", help="only these (all)")
    parser.add_argument("--output", type=Path, help="folder to write to (OUT_DIR/summary)")
    args = parser.parse_args()
    if args.methods and not args.checkpoint:
        raise InputError("--methods compares methods of one checkpoint: give --checkpoint too")
    return args


def choose_runs(args: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for. Raises InputError if there are none."""
    runs = list(find_runs(args.out_dir))
    if args.benchmarks:
        runs = [run for run in runs if run.benchmark in args.benchmarks]
    if args.methods:
        runs = compare_methods(runs, Path(args.checkpoint).name, args.methods)
    elif args.checkpoint:
        runs = [run for run in runs if run.setting.name == Path(args.checkpoint).name]
    if args.tokens:
        unpruned = args.methods is not None
        runs = [run for run in runs if run.asked in args.tokens or (unpruned and run.asked is None)]
    if not runs:
        wanted = " of that checkpoint and those numbers of tokens" if args.checkpoint or args.tokens else ""
        raise InputError(f"no scores or files for submission{wanted} below {args.out_dir}")
    return runs


def main() -> None:
    args = parse_arguments()
    runs = choose_runs(args)
    first = "method" if args.methods else "checkpoint"
    table, submissions, wrong = collect(runs, args.methods or sorted({run.setting.name for run in runs}))
    if wrong and not table and not submissions:
        raise InputError("; ".join(wrong))
    output = args.output or args.out_dir / "summary"
    picture = output / "scores.png"
    text = markdown(table, submissions, first)
    with atomic_writer(output / "scores.md") as file:
        file.write(text)
    write_csv(table, output / "scores.csv", first)
    picture.unlink(missing_ok=True)  # one that is not drawn anew would contradict the table
    if columns_of(table):
        try:
            write_picture(table, picture)
        except ImportError:
            print(f"{picture} is not drawn, that needs matplotlib: pip install -e '.[eval]'", file=sys.stderr)
    print(text, end="")
    if wrong:
        raise InputError("; ".join(wrong))


if __name__ == "__main__":
    run_command(main)
