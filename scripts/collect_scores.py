"""Collect the scores that the recipes left below OUT_DIR into one table: scores.md, scores.csv, scores.png.

python scripts/collect_scores.py --out-dir DIR [--checkpoint NAME] [--tokens 128 64 32] [--output FOLDER]
"""

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llava.eval.files import require_fields
from llava.utils import CommandParser, InputError, atomic_writer, read_json_object, run_command


@dataclass(frozen=True)
class Headline:
    """The figure that stands for a benchmark: recipe's name, heading, key in the score file, and unit."""

    benchmark: str
    heading: str
    key: str = "accuracy"
    unit: str = "%"


HEADLINES = (
    Headline("vqav2", "VQAv2"),
    Headline("gqa", "GQA"),
    Headline("vizwiz", "VizWiz"),
    Headline("sqa", "SQA-I", "image_accuracy"),
    Headline("textvqa", "TextVQA"),
    Headline("pope", "POPE F1", "mean_f1"),
    Headline("mme", "MME-P", "perception", "points"),
    Headline("mme", "MME-C", "cognition", "points"),
    Headline("mmbench", "MMB"),
    Headline("mmbench_cn", "MMB-CN"),
    Headline("mmvet", "MM-Vet"),
    Headline("seed", "SEED"),
)
SUBMISSIONS = ("merge.upload.json", "merge.upload.jsonl", "merge.xlsx")
ABSENT = "–"
NOTE = "MME in points, the others in percent. Tokens: visual tokens kept of a picture, in LLaVA-1.6 of each crop."


class Setting(NamedTuple):
    """What a row of the table is about. The ratio is as its folder spells it."""

    checkpoint: str
    tokens: int
    ratio: str

    @property
    def order(self) -> tuple:
        """Sorts by checkpoint, then from many tokens to few, then by ratio."""
        return self.checkpoint, -self.tokens, float(self.ratio)


class Run(NamedTuple):
    """A folder of merged answers."""

    benchmark: str
    split: str
    setting: Setting
    folder: Path


class Column(NamedTuple):
    """A headline; `split` is empty unless several splits of the benchmark were scored."""

    headline: Headline
    split: str

    def named(self, name: str) -> str:
        """`name`, with the split where there are several."""
        return f"{name} ({self.split})" if self.split else name


Table = dict[Setting, dict[Column, float]]


def find_runs(out_dir: Path) -> Iterator[Run]:
    """The folders that the recipes made below `out_dir` and that hold merged answers, a score or a submission."""
    for benchmark in dict.fromkeys(headline.benchmark for headline in HEADLINES):
        for folder in sorted(out_dir.glob(f"{benchmark}/answers/*/*/n_*/r_*")):
            split, checkpoint, tokens, ratio = folder.parts[-4:]
            tokens, ratio = tokens.removeprefix("n_"), ratio.removeprefix("r_")
            done = any((folder / name).is_file() for name in ("merge.jsonl", "merge.score.json", *SUBMISSIONS))
            if done and tokens.isdecimal() and ratio.replace(".", "", 1).isdecimal():
                yield Run(benchmark, split, Setting(checkpoint, int(tokens), ratio), folder)


def read_headlines(file: Path, benchmark: str) -> dict[Headline, float]:
    """A score file's headline figures, less those that it says do not exist (null).

    Raises InputError, naming the file, if it is not such a score file.
    """
    headlines = [headline for headline in HEADLINES if headline.benchmark == benchmark]
    scores = read_json_object(file, "score file")
    require_fields(scores, [headline.key for headline in headlines], f"score file {file}")
    found = {headline: scores[headline.key] for headline in headlines if scores[headline.key] is not None}
    for headline, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"score file {file}: {headline.key} is {value!r}, not a number")
    return found


def collect(runs: list[Run]) -> tuple[Table, list[tuple[Run, Path]], list[str]]:
    """The table, the submission files of runs that have no score, and what is wrong with the rest."""
    scored: list[tuple[Run, dict[Headline, float]]] = []
    submissions, wrong = [], []
    for run in runs:
        file = run.folder / "merge.score.json"
        files = [run.folder / name for name in SUBMISSIONS if (run.folder / name).is_file()]
        if files and not file.exists():
            submissions.append((run, files[0]))
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
    table: Table = {run.setting: {} for run, _ in sorted(scored, key=lambda entry: entry[0].setting.order)}
    for run, found in scored:
        split = run.split if len(splits[run.benchmark]) > 1 else ""
        table[run.setting] |= {Column(headline, split): value for headline, value in found.items()}
    return table, submissions, wrong


def columns_of(table: Table) -> list[Column]:
    """The columns that have something in them, in the order of HEADLINES."""
    found = {column for cells in table.values() for column in cells}
    return sorted(found, key=lambda column: (HEADLINES.index(column.headline), column.split))


def markdown(table: Table, submissions: list[tuple[Run, Path]]) -> str:
    """The table with one decimal, aligned to be read as it is, and below it the submission files without a score."""
    columns = columns_of(table)
    parts = []
    if columns:
        lines = [["checkpoint", "tokens", "ratio", *(column.named(column.headline.heading) for column in columns)]]
        for setting, cells in table.items():
            numbers = [f"{cells[column]:.1f}" if column in cells else ABSENT for column in columns]
            lines.append([setting.checkpoint, str(setting.tokens), setting.ratio, *numbers])
        widths = [max(map(len, column)) for column in zip(*lines)]
        lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
        for line in lines:
            cells = [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
            parts.append(f"| {' | '.join(cells)} |")
        parts += ["", NOTE]
    if submissions:
        parts += [""] * bool(parts) + ["Without a local score, to be submitted:", ""]
        for run, file in sorted(submissions, key=lambda entry: entry[0].setting.order):
            checkpoint, tokens, ratio = run.setting
            parts.append(f"- {run.benchmark}, {checkpoint}, {tokens} tokens, ratio {ratio}: `{file}`")
    return "\n".join(parts) + "\n"


def write_csv(table: Table, path: Path) -> None:
    """One row for each score, with up to four decimals. Raises InputError if the file cannot be written."""
    with atomic_writer(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["checkpoint", "tokens", "ratio", "benchmark", "metric", "value"])
        for setting, cells in table.items():
            for column in filter(cells.__contains__, columns_of(table)):
                benchmark = column.named(column.headline.benchmark)
                writer.writerow([*setting, benchmark, column.headline.key, round(cells[column], 4)])


def write_picture(table: Table, path: Path) -> None:
    """Draw score against tokens: a panel for each column, a line for each checkpoint and ratio.

    Raises ImportError where matplotlib is not installed, InputError if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = columns_of(table)
    lines = sorted({(setting.checkpoint, float(setting.ratio), setting.ratio) for setting in table})
    wide = len(columns) if len(columns) < 5 else min((4, 3, 5), key=lambda width: -len(columns) % width)
    high = math.ceil(len(columns) / wide)
    names = [f"{checkpoint}, ratio {ratio}" for checkpoint, _, ratio in lines]
    side_by_side = max(1, int(3.2 * wide / (0.6 + 0.085 * max(map(len, names)))))
    legend_height = 0.3 + 0.19 * math.ceil(len(names) / side_by_side)
    figure = Figure(figsize=(3.2 * wide, 2.5 * high + legend_height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, squeeze=False).flatten()
    for column, ax in zip(columns, axes):
        ax.set_title(column.named(column.headline.heading), fontsize=8 if column.split else 10)
        ax.set_xlabel("visual tokens", fontsize=8)
        ax.set_ylabel(column.headline.unit, fontsize=8)
        for i, (checkpoint, _, ratio) in enumerate(lines):
            points = sorted(
                (setting.tokens, cells[column])
                for setting, cells in table.items()
                if (setting.checkpoint, setting.ratio) == (checkpoint, ratio) and column in cells
            )
            style = {"color": f"C{i % 10}", "marker": "osD^v"[i // 10 % 5], "markersize": 4, "linewidth": 1.4}
            ax.plot([x for x, _ in points], [y for _, y in points], label=names[i], **style)
        set_axes(ax, sorted({setting.tokens for setting in table}))
    for ax in axes[len(columns) :]:
        ax.set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=side_by_side, fontsize=8)
    with atomic_writer(path) as file:
        figure.savefig(file.buffer, format="png")  # the bytes below the text file


def set_axes(ax, tokens: list[int]) -> None:
    """A logarithmic axis with a tick at each number of tokens, labelled where there is room; a calm vertical one."""
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
    ax.tick_params(labelsize=8)
    ax.set_xticks(tokens, labels, rotation=90 if upright else 0, fontsize=7 if upright else 8)
    ax.minorticks_off()
    low, high = ax.get_ylim()
    if high - low < 2:
        ax.set_ylim((low + high) / 2 - 1, (low + high) / 2 + 1)
    ax.ticklabel_format(axis="y", useOffset=False, style="plain")
    ax.grid(alpha=0.3)


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(description="Collect the recipes' scores into one table and one picture.")
    parser.add_argument("--out-dir", required=True, type=Path, help="the recipes' OUT_DIR")
    parser.add_argument("--checkpoint", help="only this one (all)")
    parser.add_argument("--tokens", type=int, nargs="+", help="only these numbers of visual tokens (all)")
    parser.add_argument("--output", type=Path, help="folder to write to (OUT_DIR/summary)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    runs = [
        run
        for run in find_runs(args.out_dir)
        if (args.checkpoint is None or run.setting.checkpoint == Path(args.checkpoint).name)
        and (args.tokens is None or run.setting.tokens in args.tokens)
    ]
    if not runs:
        wanted = " of that checkpoint and those numbers of tokens" if args.checkpoint or args.tokens else ""
        raise InputError(f"no scores or files for submission{wanted} below {args.out_dir}")
    table, submissions, wrong = collect(runs)
    if wrong and not table and not submissions:
        raise InputError("; ".join(wrong))
    output = args.output or args.out_dir / "summary"
    picture = output / "scores.png"
    text = markdown(table, submissions)
    with atomic_writer(output / "scores.md") as file:
        file.write(text)
    write_csv(table, output / "scores.csv")
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
