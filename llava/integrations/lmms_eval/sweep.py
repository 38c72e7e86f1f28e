"""lmms-eval at many settings, and their table: python -m llava.integrations.lmms_eval.sweep ocrbench refcoco [options]

Task sets are named in short; without one, they are listed. Each of their tasks is asked at every combination of the
settings of pruning, by lmms-eval itself, with one process for each GPU. What is done is not done again: the same
command goes on after a run that was cut off, from the task at which it was. The table is that of
`llava.eval.lmms_eval`.
"""

import argparse
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import llava
from llava.checkpoints.folders import get_model_name_from_path
from llava.cli import CommandParser, run_command
from llava.conversation import check_conv_mode
from llava.errors import InputError
from llava.eval.__main__ import count_gpus
from llava.eval.benchmarks import all_benchmarks
from llava.eval.benchmarks.lmms_suites import SUITES, Suite, find_suite
from llava.eval.evaluation import BUNDLED_DATA, BUNDLED_MODEL, PLAYGROUND
from llava.eval.lmms_eval import MODELS, UNFINISHED, Pruned, convert, published, read_logs
from llava.eval.report.summary import summarize
from llava.eval.run.lock import AnswersLock
from llava.eval.run.processes import environment_of_child
from llava.eval.run.settings import decisive_files, heeded
from llava.eval.run.stamps import digest_files, stamp_files
from llava.files import read_json_object, read_text, require_writable, write_json
from llava.inference.options import ModelOptions
from llava.pruning.method import NONE, method_digest, method_label
from llava.pruning.settings import DEFAULTS, NAMES, add_settings_arguments

TASKS = PLAYGROUND.parent / "scripts" / "lmms_eval"  # those that need no download
RECORD = "made_by.json"
LLAVA_MODEL, HF_MODEL = MODELS


def parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=", ".join(suite.short for suite in SUITES))
    parser.add_argument("--model", choices=MODELS, default=LLAVA_MODEL, help=f"lmms-eval's model ({LLAVA_MODEL})")
    parser.add_argument(
        "--model-path", default=str(BUNDLED_MODEL), help="checkpoint folder or hub id (the bundled one)"
    )
    parser.add_argument(
        "--visual_token_num", nargs="+", default=["all"], help=f"visual tokens kept; of {HF_MODEL} also a share (all)"
    )
    add_settings_arguments(parser, several=NAMES, less={"visual_token_num"})
    parser.add_argument("--template", help=f"prompt template; of {HF_MODEL} a file of Jinja (the checkpoint's own)")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="of the weights (by the device)")
    parser.add_argument("--device", default="cuda", help="cuda (the CPU where there is no GPU), cuda:N or cpu")
    parser.add_argument("--batch-size", default="auto", help="requests answered at once (by free memory)")
    parser.add_argument("--num-processes", type=int, help="on this machine (one for each GPU)")
    parser.add_argument("--limit", type=int, help="documents of each task, for a trial (all)")
    parser.add_argument("--out-dir", type=Path, default=PLAYGROUND / "out" / "lmms_eval", help="for logs and the table")
    parser.add_argument("--overwrite", action="store_true", help="drop logs that were made otherwise")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if not args.tasks:
        print("\n".join(f"{suite.short:18}{', '.join(suite.tasks)}" for suite in SUITES))
        return
    suites = [find_suite(name) for name in dict.fromkeys(args.tasks)]
    sweep = Sweep(args, suites, read_points(args))
    sweep.check()
    lock = AnswersLock(args.out_dir / "logs", args.out_dir / "lock")
    lock.take()
    try:
        failed = sweep.run()
        sweep.print_table()
    finally:
        lock.close()
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1 if failed else 0)


def read_points(args: argparse.Namespace) -> dict[tuple, tuple[dict[str, str], Pruned]]:
    """The settings with every combination of values, each as model arguments and as settings.

    Those that differ only in what their method does not read are one. Raises InputError for an invalid one.
    """
    points = {}
    values = {name: [str(value) for value in getattr(args, name)] for name in NAMES}
    for combined in product(*(values[name] for name in reversed(NAMES))):
        options = {
            name: text for name, text in zip(reversed(NAMES), combined) if text not in ("all", str(DEFAULTS[name]))
        }
        pruned = Pruned.read(options)
        if args.model == HF_MODEL:
            from llava.integrations.transformers.budget import Budget

            try:
                Budget(pruned.settings)
            except ValueError as error:
                raise InputError(str(error)) from error
        elif pruned.unit:
            raise InputError(
                f"visual_token_num: a share such as {options['visual_token_num']} needs --model {HF_MODEL}"
            )
        unit = pruned.unit if pruned.settings.prunes else ""
        points.setdefault((unit, *heeded(pruned.settings).values()), (options, pruned))
    return points


@dataclass(frozen=True)
class Sweep:
    """Tasks of lmms-eval at some settings."""

    args: argparse.Namespace
    suites: list[Suite]
    points: dict[tuple, tuple[dict[str, str], Pruned]]

    def check(self) -> None:
        """Raise InputError for what would fail later: all that can be known before a model is loaded."""
        args = self.args
        if importlib.util.find_spec("lmms_eval") is None:
            raise InputError("lmms-eval is not installed: pip install lmms-eval==0.7.3 (see docs/lmms_eval.md)")
        if args.batch_size != "auto" and not re.fullmatch("[1-9][0-9]{0,8}", args.batch_size):
            raise InputError(f'batch-size must be an integer of at least 1 or "auto", got {args.batch_size!r}')
        for name in ("limit", "num_processes"):
            if getattr(args, name) is not None and getattr(args, name) < 1:
                raise InputError(f"{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
        for text in (args.model_path, args.template or "", *args.pruning_method):
            if "," in text:
                raise InputError(f"lmms-eval takes no comma in a model argument: {text}")
        if args.template is not None and args.model == LLAVA_MODEL:
            check_conv_mode(args.template)
        elif args.template is not None:
            read_text(args.template, "chat template")
        _ = ModelOptions(args.model_path).model_type
        wanted = {suite.short for suite in self.suites}
        for benchmark in all_benchmarks():
            if benchmark.name in wanted:
                benchmark.require_data(BUNDLED_DATA)
        require_writable(args.out_dir / RECORD)

    @cached_property
    def made_by(self) -> dict:
        """What decides the answers to every task, whatever the settings of pruning are."""
        args = self.args
        return {
            "llava": llava.__version__,
            "lmms_eval": importlib.metadata.version("lmms_eval"),
            "model": args.model,
            "checkpoint": stamp_files(decisive_files(args.model_path)),
            "template": digest_files([Path(args.template)])
            if args.template and args.model == HF_MODEL
            else args.template,
            "dtype": args.dtype,
            "limit": args.limit,
        }

    @property
    def checkpoint(self) -> str:
        return get_model_name_from_path(self.args.model_path)

    def run(self) -> list[str]:
        """Ask what is not done yet. Returns a line for each task that failed.

        Raises InputError, before anything is asked, for logs that were made otherwise.
        """
        wanted, places = [], set()
        for suite, task, (options, pruned) in product_of(self.suites, self.points.values()):
            record = self.made_by | {
                "settings": heeded(pruned.settings) | {"unit": pruned.unit},
                "pruning_file": method_digest(pruned.settings.pruning_method),
            }
            folder = pruned.file(suite, task, self.args.out_dir, self.checkpoint).with_name("log")
            if folder in places:
                raise InputError(
                    f"two of the settings would be filed in {folder}: give them to runs with an --out-dir each"
                )
            places.add(folder)
            if not folder.exists():
                wanted.append((suite, task, options, record, folder))
                continue
            known = read_json_object(folder / RECORD, "record of a log")
            if differ := [name for name in record if known.get(name) != record[name]]:
                if not self.args.overwrite:
                    raise InputError(f"{folder} was made with another {', '.join(differ)}: --overwrite drops it")
                wanted.append((suite, task, options, record, folder))
        if done := len(places) - len(wanted):
            print(f"--- {done} of {len(places)} are done ---", flush=True)
        failed = []
        for number, (suite, task, options, record, folder) in enumerate(wanted, start=1):
            name = f"{task}, {' '.join(f'{key}={value}' for key, value in options.items()) or 'unpruned'}"
            print(f"--- {number} of {len(wanted)}: {name} ---", flush=True)
            if error := self._ask(suite, task, options, record, folder):
                failed.append(f"{name}: {error}")
        return failed

    def _ask(self, suite: Suite, task: str, options: dict[str, str], record: dict, folder: Path) -> str | None:
        """Run lmms-eval for a task at a setting; its log appears when it is complete. Returns why there is none."""
        part = folder.with_name(f"log{UNFINISHED}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        output = part / "output.txt"
        with output.open("w") as file:
            command = self._command(suite, task, options, part)
            subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False, env=environment_of_child())
        said = output.read_text(errors="replace")
        try:
            _ = read_logs(part)
        except InputError as error:
            reasons = re.findall(r"Error during evaluation: (.*?)\. Please set", said) or [str(error)]
            return f"{' '.join(reasons[-1].split())} (see {output})"
        write_json(part / RECORD, record)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        return None

    def _command(self, suite: Suite, task: str, options: dict[str, str], output: Path) -> list[str]:
        args = self.args
        number = args.num_processes or count_gpus()
        template = "conv_template" if args.model == LLAVA_MODEL else "chat_template"
        given = {"pretrained": args.model_path, template: args.template, "dtype": args.dtype} | options
        pairs = ",".join(f"{name}={value}" for name, value in given.items() if value is not None)
        launcher = ["-m", "llava.eval.run.launch", "--multi_gpu", "--num_processes", str(number)]
        launcher += ["--num_machines", "1", "--main_process_port", "0"]
        command = [sys.executable, *(launcher if number > 1 else []), "-m", "lmms_eval", "--model", args.model]
        command += ["--model_args", pairs, "--tasks", task, "--batch_size", args.batch_size, "--device", args.device]
        command += ["--log_samples", "--output_path", str(output), *suite.options]
        command += ["--include_path", str(TASKS)] if TASKS.is_dir() else []
        return command + ([] if args.limit is None else ["--limit", str(args.limit)])

    def print_table(self) -> None:
        """Print the table of all that is below the folder, and what others published for these tasks."""
        if not any(self.args.out_dir.rglob(RECORD)):
            return
        convert(self.args.out_dir)
        methods = {method_label(pruned.settings.pruning_method): None for _, pruned in self.points.values()}
        methods = sorted(methods, key=lambda name: name != NONE)
        compare = {"checkpoint": self.checkpoint, "methods": methods, "must_compare": False} if len(methods) > 1 else {}
        summarize(self.args.out_dir, **compare)
        print(published(self.suites), end="")


def product_of(suites: list[Suite], points):
    """Every task of the suites at every point, task by task."""
    return ((suite, task, point) for suite in suites for task in suite.tasks for point in points)


if __name__ == "__main__":
    run_command(main)
