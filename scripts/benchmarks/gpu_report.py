"""What pruning costs and saves on this GPU, all of it by one command: bash scripts/benchmarks/gpu_report.sh

It writes docs/results/gpu/<card>.json, of which `python -m scripts.tables` makes the documents' tables. Weights are
random, or the bundled model's; nothing is downloaded. A part is written as soon as it is measured: the same command
goes on where it was ended. Parts, with the seconds that each has at most if the others take all of theirs:

{parts}

All of them take less than nine minutes. Those whose package is not installed are left out.
"""

import argparse
import importlib.metadata
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from llava.cli import CommandParser, output_file, run_command
from llava.errors import InputError, one_line
from llava.files import atomic_writer, read_json

WHOLE = 536  # seconds of the command: less than nine minutes
ROOT = Path(__file__).parents[2]
COMMAND = "bash scripts/benchmarks/gpu_report.sh"


@dataclass(frozen=True)
class Part:
    """A table of the file; the documents join those whose names agree up to the first `/`.

    Attributes:
        name: the table's.
        seconds: that it has at most, and more where other parts took less.
        measure: its name in `gpu_parts`, a function of a `Lab` that returns the table.
        values: its further arguments.
        needs: packages, without which it is left out.
    """

    name: str
    seconds: int
    measure: str
    values: tuple = ()
    needs: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        """The name of the joined table."""
        return self.name.partition("/")[0]


def _answer(shape: str, attention: str, batch: int, seconds: int, tokens: tuple[int, ...]) -> Part:
    needs = ("flash_attn",) if attention == "flash" else ()
    return Part(f"answer/{shape}/{attention}/{batch}", seconds, "answer", (shape, attention, batch, tokens), needs)


def _throughput(budget: int | None) -> Part:
    name = f"throughput/{budget or 'all'}"
    return Part(name, 14, "throughput", ("llava-v1.5-7b", budget), ("fastapi", "uvicorn"))


V15, V16 = partial(_answer, "llava-v1.5-7b"), partial(_answer, "llava-v1.6-7b")
HOSTS = ("qwen2.5-vl-7b", "qwen3-vl-8b")
# Parts of one shape share its model, and stand together.
PARTS = (
    Part("kernels", 45, "kernels"),
    Part("selection", 27, "selection"),
    Part("importance", 9, "importance"),
    Part("equal/float32", 20, "equal", ("float32",)),
    Part("equal/float16", 10, "equal", ("float16",)),
    Part("equal/bfloat16", 10, "equal", ("bfloat16",)),
    Part("equal/compiled", 25, "equal", ("float32", True)),
    V15("sdpa", 1, 20, (128, 64, 32)),
    V15("compiled", 1, 42, (64,)),
    V15("sdpa", 16, 22, (128, 64, 32)),
    V15("sdpa", 32, 25, (64,)),
    V15("compiled", 32, 35, (64,)),
    V15("eager", 1, 10, (64,)),
    V15("eager", 16, 15, (64,)),
    V15("flash", 1, 10, (64,)),
    V15("flash", 16, 13, (64,)),
    _throughput(None),
    _throughput(64),
    V16("sdpa", 1, 20, (128, 64, 32)),
    V16("compiled", 1, 36, (64,)),
    V16("eager", 1, 12, (64,)),
    V16("flash", 1, 10, (64,)),
    *(
        Part(f"host/{host}/{n}", seconds, "host", (host, n))
        for host in HOSTS
        for n, seconds in ((1024, 14), (4096, 22))
    ),
)


class TimeUp(BaseException):
    """A part took longer than it may; no library catches it."""


def card_file(name: str) -> str:
    """The name of a card's file: of "NVIDIA H200" it is "h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")


def choose(names: list[str] | None) -> list[Part]:
    """The parts of these names, or that begin so. Raises InputError for a name of none."""
    for name in names or []:
        if not any(_begins(part.name, name) for part in PARTS):
            raise InputError(f"there is no part {name!r}: --help lists them")
    return [part for part in PARTS if names is None or any(_begins(part.name, name) for name in names)]


def _begins(name: str, start: str) -> bool:
    return f"{name}/".startswith(f"{start}/")


def read_tables(file: Path) -> dict[str, dict]:
    """The tables of a file, none where it is not there. Raises InputError for what is no file of tables."""
    from llava.eval.benchmarks.rows import check
    from scripts.tables.book import Tables

    return check(read_json(file, "results"), Tables, f"the results {file}")["tables"] if file.exists() else {}


def write_tables(file: Path, tables: dict[str, dict]) -> None:
    """Write the tables in the order of the parts, a line for each column and row."""
    places = {part.name: i for i, part in enumerate(PARTS)}
    lines, text = [], {"form": "tables 1", "tables": {}}

    def line(value: object) -> str:
        lines.append(json.dumps(value, ensure_ascii=False))
        return f"@{len(lines) - 1}@"

    for name in sorted(tables, key=lambda name: places.get(name, -1)):
        own = {key: [line(value) for value in tables[name][key]] for key in ("columns", "rows")}
        text["tables"][name] = tables[name] | own
    whole = re.sub(r'"@(\d+)@"', lambda place: lines[int(place[1])], json.dumps(text, indent=2, ensure_ascii=False))
    with atomic_writer(file) as output:
        output.write(whole + "\n")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp inside after so many seconds."""

    def end(*_) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def report(
    parts: list[Part], file: Path, measure: Callable[[Part], dict], about: dict, overwrite: bool, end: float
) -> bool:
    """Measure parts and write each into the file; those that it has by this command already only with `overwrite`.

    All of it ends at `end` of `time.monotonic`: what a part has left of its time the later ones get. Returns whether
    there is a table of every part now, but of those that lack a package.
    """
    tables, open_parts = read_tables(file), []
    for part in parts:
        if lacking := [package for package in part.needs if find_spec(package) is None]:
            print(f"left out: {part.name} needs {', '.join(lacking)}")
        elif not overwrite and tables.get(part.name, {}).get("about", {}).get("command") == command_of(part, about):
            print(f"there: {part.name}")
        else:
            open_parts.append(part)
    failed = []
    for i, part in enumerate(open_parts):
        start = time.monotonic()
        limit = end - start - sum(later.seconds for later in open_parts[i + 1 :])
        try:
            with time_limit(limit):
                table = measure(part)
        except (Exception, TimeUp) as error:
            why = f"it took more than {limit:.0f} s" if isinstance(error, TimeUp) else _said(error)
            print(f"failed: {part.name}: {why}", file=sys.stderr)
            failed.append(part.name)
            continue
        own = about | {"command": command_of(part, about), "note": table["note"]}
        tables[part.name] = {"about": own, "columns": table["columns"], "rows": table["rows"]}
        write_tables(file, tables)
        print(f"measured: {part.name} in {time.monotonic() - start:.0f} s", flush=True)
    return not failed


def _said(error: Exception) -> str:
    return one_line(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"


def command_of(part: Part, about: dict) -> str:
    """What measures a part's joined table again."""
    return f"{about['command']} --parts {part.table}"


def main() -> None:
    end = time.monotonic() + WHOLE
    listed = "\n".join(f"    {part.name:32} {part.seconds:3} s" for part in PARTS)
    parser = CommandParser(
        description=__doc__.format(parts=listed), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="these alone, or all that begin with NAME/")
    parser.add_argument("--overwrite", action="store_true", help="measure parts again that are there already")
    parser.add_argument("--output", type=output_file, help="the file (docs/results/gpu/<card>.json)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu with --tiny (cuda)")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the report out; needs --output")
    args = parser.parse_args()
    parts = choose(args.parts)
    if args.tiny and args.output is None:
        raise InputError("--tiny needs --output: its figures are not to be published")
    import torch

    from llava.machine import device_name

    on_gpu = args.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise InputError("there is no GPU here; --device cpu --tiny --output FILE tries the report out")
    if not on_gpu and not args.tiny:
        raise InputError("--device cpu goes with --tiny: the shapes are those of 7B models")
    from scripts.benchmarks import gpu_parts

    device = torch.device(args.device)
    name = device_name(args.device)
    lab = gpu_parts.Lab(device, args.tiny)
    about = {
        "kind": "measured",
        "command": COMMAND + (f" --device {args.device} --tiny" if args.tiny else ""),
        "machine": f"one {name}" if on_gpu else f"{torch.get_num_threads()} threads on {name}",
        "versions": f"{_versions()}, {str(lab.dtype).removeprefix('torch.')}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    file = args.output or ROOT / "docs" / "results" / "gpu" / f"{card_file(name)}.json"

    def measure(part: Part) -> dict:
        try:
            return getattr(gpu_parts, part.measure)(lab, *part.values)
        except BaseException:
            lab.drop()  # whatever state it was left in
            raise

    if not report(parts, file, measure, about, args.overwrite, end):
        sys.exit(1)


def _versions() -> str:
    """The versions of what is measured."""
    import torch

    from llava.machine import versions

    found = versions()
    names = {"python": "Python", "torch": "torch", "transformers": "transformers"}
    said = [f"{name} {found[key].partition('+')[0]}" for key, name in names.items()]
    if torch.version.cuda:
        said[1] += f" (CUDA {torch.version.cuda})"
    for package, name in (("triton", "Triton"), ("flash_attn", "FlashAttention")):
        if find_spec(package):
            said.append(f"{name} {importlib.metadata.version(package)}")
    return ", ".join(said)


if __name__ == "__main__":
    run_command(main)
