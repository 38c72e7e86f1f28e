"""Answer benchmarks, score the answers and write the files to submit: python -m llava.eval pope --visual_token_num 64

Several benchmarks and settings, `python -m llava.eval pope gqa --visual_token_num 128 64 --pruning_method vispruner
divprune`, are answered in every combination by one model that is loaded once, and end with a table of the scores. Every
GPU in CUDA_VISIBLE_DEVICES takes its share of the questions; a run that was cut off goes on where it was.
"""

import argparse
import logging
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from llava.cli import CommandParser, output_file, run_command
from llava.errors import InputError
from llava.eval.benchmarks import all_benchmarks, find_benchmark
from llava.eval.benchmarks.base import Benchmark, MissingData
from llava.eval.evaluation import BUNDLED_MODEL, DATA, Run, default_data_dir, distinct, save_results
from llava.eval.report.summary import summarize, table_files
from llava.eval.run.processes import GOES_ON, environment_of_child
from llava.eval.run.source import OnDisk
from llava.files import require_writable
from llava.inference.options import (
    add_asking_arguments,
    add_crop_arguments,
    add_generation_arguments,
    add_weights_arguments,
    asking_options,
    model_options,
    pruning_grid,
)
from llava.pruning.method import NONE, method_label
from llava.pruning.settings import DEFAULTS, NAMES, Settings, add_settings_arguments

SKIPPED = 3  # exit code of --skip-missing for a benchmark alone
ALL = "all"
logger = logging.getLogger(__name__)


def parse() -> argparse.Namespace:
    names = ", ".join(benchmark.name for benchmark in all_benchmarks())
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", help=f"{names}, or {ALL} but scenes_*; without one, they are listed")
    parser.add_argument(
        "--model-path", default=str(BUNDLED_MODEL), help="checkpoint folder or hub id (the bundled one)"
    )
    add_weights_arguments(parser)
    add_settings_arguments(parser, several=NAMES)
    add_crop_arguments(parser)
    parser.add_argument("--data-dir", type=Path, help="the benchmarks' data (bundled, or playground/data/eval)")
    parser.add_argument("--out-dir", type=Path, default=DATA, help="where answers and scores go (playground/data/eval)")
    parser.add_argument(
        "--results",
        type=output_file,
        metavar="FILE",
        help="also write settings, machine, scores and intervals as JSON",
    )
    parser.add_argument("--overwrite", action="store_true", help="drop answers that were made with other settings")
    parser.add_argument(
        "--skip-missing",
        action="store_true",
        help=f"name a benchmark whose data is not there as skipped, and exit with {SKIPPED} if there is no other",
    )
    add_asking_arguments(parser)
    add_generation_arguments(parser, temperature=0, max_new_tokens=None)
    processes = parser.add_argument_group("processes")
    processes.add_argument("--num-processes", type=int, help="on this machine (one for each GPU)")
    processes.add_argument("--num-machines", type=int, default=1, help="machines that share the questions (1)")
    processes.add_argument("--machine-rank", type=int, default=0, help="which of them this is; the first scores (0)")
    processes.add_argument("--main-process-ip", help="the first machine's address")
    processes.add_argument("--main-process-port", type=int, help="a free port there")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if not args.benchmarks:
        print("\n".join(f"{entry.name:15}{entry.folder}/{entry.questions}" for entry in all_benchmarks()))
        return
    names = dict.fromkeys(args.benchmarks)
    every = [benchmark for benchmark in all_benchmarks() if benchmark.made_by is None or benchmark.name in names]
    benchmarks = every if ALL in names else [find_benchmark(name) for name in names]
    settings, count = pruning_grid(vars(args)), count_processes(args)
    tokens, args.max_new_tokens = args.max_new_tokens, 1 if args.max_new_tokens is None else args.max_new_tokens
    source, asking = OnDisk(model_options(args, settings[0])), asking_options(args)
    settings = distinct(settings)
    data_dir = args.data_dir or default_data_dir(args.model_path)
    is_single = len(benchmarks) == len(settings) == 1
    if is_single:
        skip_or_require(benchmarks[0], data_dir, args.skip_missing)
    source.require()
    if count > 1 and "RANK" not in os.environ:
        launch(args, count)
        return
    run = Run(source, asking, settings, data_dir, args.out_dir, tokens, args.overwrite)
    if is_single:
        answer_one(run, benchmarks[0], args.results)
    else:
        answer_all(run, benchmarks, args.skip_missing, args.results)


def skip_or_require(benchmark: Benchmark, data_dir: Path, skip: bool) -> None:
    """Raise MissingData if a benchmark's data is not there, or with `skip` end this process."""
    try:
        benchmark.require_data(data_dir)
    except MissingData as missing:
        if not skip:
            raise
        print(f"skipped: {missing}", file=sys.stderr)
        sys.exit(SKIPPED)


def answer_one(run: Run, benchmark: Benchmark, results_file: Path | None) -> None:
    """Answer one benchmark at one of the settings. Raises InputError, in the first process, for what cannot be."""
    try:
        for result in run.evaluate(benchmark).values():
            if isinstance(result, InputError):
                raise result
            print(result.description)
            if results_file is not None:
                save_results(results_file, [result], this_command(), run.source.name)
    except InputError:
        if run.ranks.rank == 0:  # which says it for all
            raise


@dataclass
class Report:
    """What became of the parts of a run: their failures, and the benchmarks whose data is not there."""

    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    code: int = 0

    def fail(self, what: str, error: Exception) -> None:
        """Note a failure: the exit code is 2 (bad input) if nothing failed otherwise, else 1."""
        if not isinstance(error, InputError):
            logger.error("%s failed", what, exc_info=error)
        self.failed.append(f"{what}: {' '.join(str(error).split())}")
        self.code = 1 if self.code == 1 or not isinstance(error, InputError) else 2


def this_command() -> str:
    """The command as it was given."""
    return shlex.join(["python", "-m", "llava.eval", *sys.argv[1:]])


def answer_all(run: Run, benchmarks: list[Benchmark], skip_missing: bool, results_file: Path | None) -> None:
    """Answer benchmarks at all settings; one that fails does not stop the next. Exits with 1 or 2 if any failed."""
    report, scored = Report(), []
    run.ranks.from_first(lambda: require_writable(*table_files(table_folder(run))))
    for benchmark in benchmarks:
        try:
            results = run.evaluate(benchmark)
        except Exception as error:
            if skip_missing and isinstance(error, MissingData):
                report.skipped.append(benchmark.name)
            elif run.ranks.count > 1 and not isinstance(error, InputError):
                raise  # the others would wait for this process
            else:
                report.fail(benchmark.name, error)
            continue
        for pruning, result in results.items():
            what = f"{benchmark.name}, {describe(pruning)}"
            if isinstance(result, InputError):
                report.fail(what, result)
            else:
                print(f"--- {what} ---\n{result.description}", flush=True)
                scored.append(result)
    if run.ranks.rank > 0:
        return
    is_any = len(report.skipped) < len(benchmarks)
    try:
        if is_any:
            write_table(run, benchmarks)
    except InputError as error:
        report.fail("the table", error)
    try:
        if results_file is not None:
            save_results(results_file, scored, this_command(), run.source.name)
    except InputError as error:
        report.fail("the results", error)
    for name in report.skipped:
        print(f"skipped, its data is not there: {name}")
    sys.stdout.flush()
    if not is_any:
        print("error: no benchmark was answered: the data of none is there", file=sys.stderr)
        sys.exit(SKIPPED)
    for what in report.failed:
        print(f"error: {what}", file=sys.stderr)
    sys.exit(report.code)


def describe(pruning: Settings) -> str:
    """The settings as a heading names them."""
    if not pruning.prunes:
        return f"{method_label(pruning.pruning_method)}, no picture" if pruning.is_blind else "unpruned"
    named = ("visual_token_num", "pruning_method")
    others = {name: value for name, value in pruning.read.items() if name not in named and value is not None}
    more = "".join(f", {name} {value}" for name, value in others.items() if value != DEFAULTS[name])
    return f"{method_label(pruning.pruning_method)} at {pruning.visual_token_num} visual tokens{more}"


def table_folder(run: Run) -> Path:
    """Where the table of scores goes."""
    methods = {method_label(each.pruning_method) for each in run.settings}
    return run.out_dir / "summary" / ("methods" if len(methods) > 1 else "")


def write_table(run: Run, benchmarks: list[Benchmark]) -> None:
    """Print the table of scores and write it below the folder of answers: of all that is there, or of the methods."""
    methods = list(dict.fromkeys(method_label(each.pruning_method) for each in run.settings))
    output = table_folder(run)
    print(f"--- scores, also in {output} ---")
    if len(methods) == 1:
        summarize(run.out_dir, output)
        return
    methods.sort(key=lambda name: name != NONE)
    tokens = sorted({each.visual_token_num for each in run.settings if each.prunes})
    names = [benchmark.name for benchmark in benchmarks]
    options = {"checkpoint": run.source.name, "tokens": tokens, "methods": methods, "benchmarks": names}
    summarize(run.out_dir, output, **options, must_compare=False)


def count_processes(args: argparse.Namespace) -> int:
    """The processes of the whole run: on each machine those that are asked for, or one for each GPU.

    Raises InputError if they cannot be.
    """
    here = args.num_processes if args.num_processes is not None else count_gpus()
    if here < 1 or args.num_machines < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise InputError("num-processes and num-machines must be at least 1, machine-rank below num-machines")
    if args.num_machines > 1 and not (args.main_process_ip and args.main_process_port):
        raise InputError("several machines need main-process-ip and main-process-port")
    return here * args.num_machines


def count_gpus() -> int:
    """The GPUs that this process may use, and 1 where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([name for name in visible.split(",") if name.strip()]))
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 1
    return max(1, len(listed.splitlines()))


def launch(args: argparse.Namespace, count: int) -> None:
    """Answer in several processes, which run this same command; exits with their exit code unless it is 0."""
    options = ["--multi_gpu", "--num_processes", count, "--num_machines", args.num_machines]
    options += ["--machine_rank", args.machine_rank, "--main_process_port", args.main_process_port or 0]
    if args.num_machines > 1:
        options += ["--main_process_ip", args.main_process_ip]
    command = [sys.executable, "-m", "llava.eval.run.launch", *map(str, options), "-m", "llava.eval", *sys.argv[1:]]
    code = subprocess.run(command, check=False, env=environment_of_child()).returncode
    if code < 0:
        print(f"error: the launcher was ended by signal {-code}; {GOES_ON}", file=sys.stderr)
    if code:
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    run_command(main)
