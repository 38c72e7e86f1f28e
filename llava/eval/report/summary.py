"""Collect the scores that lie below OUT_DIR into one table: scores.md, scores.csv, scores.png.

python -m llava.eval.report.summary --out-dir DIR [--checkpoint NAME] [--tokens 128 64 32] [--output FOLDER]
With --methods the rows are one checkpoint's pruning methods: --checkpoint NAME --methods vispruner divprune mine.py
Their differences from VisPruner are then in differences.md and differences.csv. With --split-by pool, split.md and
split.csv have each method on the questions that downsampling fails, and on those that it does not.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.errors import InputError
from llava.eval.report.score_report import markdown, write_scores
from llava.eval.report.score_table import (
    DOWNSAMPLE,
    HEADLINES,
    Run,
    collect,
    columns_of,
    compare_methods,
    find_runs,
)
from llava.files import atomic_writer, remove_file, require_writable
from llava.inference.options import pruning_method
from llava.pruning.method import method_label
from llava.tables import printable


def row_label(text: str) -> str:
    """What a row is called that an option names: the label of a method, or `downsample`."""
    return text if text == DOWNSAMPLE else method_label(pruning_method(text))


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(description="Collect scores into one table and one picture.")
    parser.add_argument("--out-dir", required=True, type=Path, help="where answers and scores are")
    parser.add_argument("--checkpoint", help="only this one (all)")
    parser.add_argument("--tokens", type=int, nargs="+", help="only these numbers of visual tokens (all)")
    parser.add_argument(
        "--methods",
        type=row_label,
        nargs="+",
        help="compare these of the checkpoint's; `none` and `blind` are there at any --tokens",
    )
    parser.add_argument("--benchmarks", choices=HEADLINES, nargs="+", help="only these (all)")
    parser.add_argument(
        "--split-by",
        type=row_label,
        metavar="METHOD",
        help="also split the questions by whether they are right with this method, which stands for downsampling",
    )
    parser.add_argument("--output", type=Path, help="folder to write to (OUT_DIR/summary)")
    args = parser.parse_args()
    if args.methods and not args.checkpoint:
        raise InputError("--methods compares methods of one checkpoint: give --checkpoint too")
    return args


def table_files(folder: Path) -> list[Path]:
    """What `summarize` writes to a folder."""
    tables = [folder / f"{name}.{kind}" for name in ("scores", "differences", "split") for kind in ("md", "csv")]
    return [*tables, folder / "scores.png"]


def choose_runs(
    out_dir: Path,
    checkpoint: str | None,
    tokens: Sequence[int] | None,
    methods: Sequence[str] | None,
    benchmarks: Sequence[str] | None,
    wrong: list[str],
) -> list[Run]:
    """The runs below a folder that the arguments of `summarize` ask for, and in `wrong` why others cannot be read.

    Raises InputError if there are none.
    """
    name = printable(Path(checkpoint or "").name)
    try:
        runs = list(find_runs(out_dir, wrong))
    except OSError as error:
        raise InputError(f"cannot read the folder of answers: {error.strerror}") from error
    if benchmarks:
        runs = [run for run in runs if run.benchmark in benchmarks]
    if methods:
        runs = compare_methods(runs, name, methods)
    elif checkpoint:
        runs = [run for run in runs if run.setting.name == name]
    if tokens:
        unpruned = methods is not None
        runs = [run for run in runs if run.asked in tokens or (unpruned and run.asked is None)]
    if not runs:
        wanted = " of that checkpoint and those numbers of tokens" if checkpoint or tokens else ""
        raise InputError("; ".join([f"no scores or files for submission{wanted} below {out_dir}", *wrong]))
    return runs


def write_differences(differences: dict, output: Path) -> None:
    """Write differences.md and differences.csv; where there is no difference, those of an earlier run are removed."""
    from llava.eval.report.intervals import differences_markdown, write_differences_csv

    table, rows = output / "differences.md", output / "differences.csv"
    if not differences:
        remove_file(table)
        remove_file(rows)
        return
    with atomic_writer(table) as file:
        file.write(differences_markdown(differences))
    write_differences_csv(differences, rows)


def write_split(split: dict | None, by: str | None, first: str, output: Path) -> str:
    """Write split.md and split.csv, or remove those of an earlier run; returns what is to be printed."""
    from llava.eval.report.split import split_markdown, write_split_csv

    table, rows = output / "split.md", output / "split.csv"
    if split is None:
        remove_file(table)
        remove_file(rows)
        return ""
    text = split_markdown(split, by, first)
    with atomic_writer(table) as file:
        file.write(text)
    write_split_csv(split, rows, first)
    return f"\n{text}"


def summarize(
    out_dir: Path,
    output: Path | None = None,
    *,
    checkpoint: str | None = None,
    tokens: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    benchmarks: Sequence[str] | None = None,
    split_by: str | None = None,
    must_compare: bool = True,
) -> None:
    """Print the table of the scores below `out_dir` and write it, with its picture, to a folder.

    Args:
        out_dir: where answers and scores are.
        output: the folder; `summary` in `out_dir` if None.
        checkpoint: only this one's scores.
        tokens: only these numbers of visual tokens, and with `methods` those that read none, `none` and `blind`.
        methods: labels of the checkpoint's methods to compare, which are then the rows.
        benchmarks: only these.
        split_by: the label of the method that stands for downsampling, see `split.split_by`; no split if None.
        must_compare: whether `methods` of which no two can be compared are an error.

    Raises InputError, before anything is written, if there are no such scores, or nothing to compare, and, when the
    table is written, for scores that cannot be read.
    """
    from llava.eval.report.intervals import add_intervals, choose_reference  # numpy
    from llava.eval.report.plots import draw_scores
    from llava.eval.report.split import split_by as split_rows

    output = output or out_dir / "summary"
    require_writable(*table_files(output))
    unread: list[str] = []
    runs = choose_runs(out_dir, checkpoint, tokens, methods, benchmarks, unread)
    first = "method" if methods else "checkpoint"
    table, submissions, wrong = collect(runs, methods or sorted({run.setting.name for run in runs}))
    wrong = unread + wrong
    if wrong and not table and not submissions:
        raise InputError("; ".join(wrong))
    split = None if split_by is None else split_rows(table, split_by)
    reference = choose_reference(methods or [])
    names = {setting.name for setting in table}
    if methods and must_compare and table and len(names) < 2:
        raise InputError(f"there is nothing to compare: of these methods {', '.join(names)} alone has scores")
    table, differences, *_, shares, notes, faults, without = add_intervals(table, reference)
    if methods and must_compare and table and not (differences or faults or without):
        reasons = " ".join(note for note in notes if note.startswith(("Not compared", "No interval")))
        raise InputError(f"nothing can be compared: {reasons or 'no two of these have the same budget'}")
    wrong += faults
    text = markdown(table, submissions, first, notes, shares)
    with atomic_writer(output / "scores.md") as file:
        file.write(text)
    write_scores(table, output / "scores.csv", first, shares)
    write_differences(differences, output)
    text += write_split(split, split_by, first, output)
    picture = output / "scores.png"
    remove_file(picture)  # one that is not drawn anew would contradict the table
    if columns_of(table):
        draw_scores(table, picture)
    print(text, end="")
    if wrong:
        raise InputError("; ".join(wrong))


def main() -> None:
    options = vars(parse_arguments())
    summarize(options.pop("out_dir"), options.pop("output"), **options)


if __name__ == "__main__":
    run_command(main)
