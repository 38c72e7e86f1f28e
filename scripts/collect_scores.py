"""Collect the scores that the recipes left below OUT_DIR into one table: scores.md, scores.csv, scores.png.

python scripts/collect_scores.py --out-dir DIR [--checkpoint NAME] [--tokens 128 64 32] [--output FOLDER]
With --methods the rows are one checkpoint's pruning methods: --checkpoint NAME --methods vispruner divprune mine.py
Their differences from VisPruner are then in differences.md and differences.csv.
"""

import argparse
import sys
from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.errors import InputError
from llava.eval.score_picture import write_picture
from llava.eval.score_table import HEADLINES, Run, collect, columns_of, compare_methods, find_runs, markdown, write_csv
from llava.files import atomic_writer
from llava.pruning.method import check_pruning_method, method_label


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


def write_differences(differences: dict, reference: str | None, output: Path) -> None:
    """Write differences.md and differences.csv; where there is no difference, those of an earlier run are removed."""
    from llava.eval.score_intervals import differences_markdown, write_differences_csv

    table, rows = output / "differences.md", output / "differences.csv"
    if not differences:
        table.unlink(missing_ok=True)
        rows.unlink(missing_ok=True)
        return
    with atomic_writer(table) as file:
        file.write(differences_markdown(differences, reference))
    write_differences_csv(differences, rows)


def main() -> None:
    args = parse_arguments()
    runs = choose_runs(args)
    first = "method" if args.methods else "checkpoint"
    table, submissions, wrong = collect(runs, args.methods or sorted({run.setting.name for run in runs}))
    if wrong and not table and not submissions:
        raise InputError("; ".join(wrong))
    from llava.eval.score_intervals import add_intervals, choose_reference  # numpy

    reference = choose_reference(args.methods or [])
    table, differences, notes, faults = add_intervals(table, reference)
    wrong += faults
    output = args.output or args.out_dir / "summary"
    picture = output / "scores.png"
    text = markdown(table, submissions, first, notes)
    with atomic_writer(output / "scores.md") as file:
        file.write(text)
    write_csv(table, output / "scores.csv", first)
    write_differences(differences, reference, output)
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
