"""Answer a benchmark, score the answers and write the file to submit: python -m llava.eval pope --visual_token_num 64

The recipes of scripts/ call this command. Every GPU in CUDA_VISIBLE_DEVICES takes its share of the questions; a run
that was cut off goes on where it was.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.errors import InputError
from llava.eval.answering import answer_question_file
from llava.eval.benchmarks import BENCHMARKS, MissingData, find_benchmark
from llava.eval.evaluation import (
    BUNDLED_MODEL,
    DATA,
    answers_path,
    default_data_dir,
    finish,
    published_conv_mode,
)
from llava.eval.options import (
    add_asking_arguments,
    add_crop_arguments,
    add_generation_arguments,
    add_pruning_arguments,
    add_weights_arguments,
    asking_options,
    model_options,
)
from llava.eval.processes import GOES_ON, environment_of_child

SKIPPED = 3  # exit code of --skip-missing


def parse() -> argparse.Namespace:
    names = ", ".join(benchmark.name for benchmark in BENCHMARKS)
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?", help=f"{names}; without one, they are listed")
    parser.add_argument(
        "--model-path", default=str(BUNDLED_MODEL), help="checkpoint folder or hub id (the bundled one)"
    )
    add_weights_arguments(parser)
    add_pruning_arguments(parser)
    add_crop_arguments(parser)
    parser.add_argument("--data-dir", type=Path, help="the benchmarks' data (bundled, or playground/data/eval)")
    parser.add_argument("--out-dir", type=Path, default=DATA, help="where answers and scores go (playground/data/eval)")
    parser.add_argument("--overwrite", action="store_true", help="drop answers that were made with other settings")
    parser.add_argument("--skip-missing", action="store_true", help=f"exit with {SKIPPED} where the data is not there")
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
    if args.benchmark is None:
        print("\n".join(f"{entry.name:12}{entry.folder}/{entry.questions}" for entry in BENCHMARKS))
        return
    benchmark = find_benchmark(args.benchmark)
    if args.max_new_tokens is None:
        args.max_new_tokens = benchmark.max_new_tokens
    model, asking, count = model_options(args), asking_options(args), count_processes(args)
    data_dir = args.data_dir or default_data_dir(args.model_path)
    try:
        benchmark.require_data(data_dir)
    except MissingData as missing:
        if not args.skip_missing:
            raise
        print(f"skipped: {missing}", file=sys.stderr)
        sys.exit(SKIPPED)
    answers_file = answers_path(benchmark, args.out_dir, model.name, model.pruning)
    if count > 1 and "RANK" not in os.environ:
        launch(args, count)
    else:
        # The template last: which is the checkpoint's own is known to the model families, which import transformers.
        conv_mode = asking.conv_mode or published_conv_mode(model.name, model.model_type, model.model_path)
        asking = replace(asking, conv_mode=conv_mode)
        answer_question_file(model, asking, benchmark.read_questions(data_dir), answers_file, args.overwrite)
    # What `launch` started only answers, and of several machines the first one scores.
    if args.machine_rank == 0 and "RANK" not in os.environ:
        print(finish(benchmark, data_dir, answers_file).description)


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
    command = [sys.executable, "-m", "llava.eval.launch", *map(str, options), "-m", "llava.eval", *sys.argv[1:]]
    code = subprocess.run(command, check=False, env=environment_of_child()).returncode
    if code < 0:
        print(f"error: the launcher was ended by signal {-code}; {GOES_ON}", file=sys.stderr)
    if code:
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    run_command(main)
