"""The benchmarks, a file each: what is read, how it is asked, how answers are scored, what is submitted.

A file of this folder that defines BENCHMARKS has one or several; nothing else names them. EVAL.md says where the data
comes from.
"""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark


@cache
def all_benchmarks() -> tuple[Benchmark, ...]:
    """Every benchmark, in the order of a table's columns. Raises ValueError if two have the same name."""
    found: dict[str, Benchmark] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        for benchmark in getattr(importlib.import_module(f"{__name__}.{name}"), "BENCHMARKS", ()):
            if found.setdefault(benchmark.name, benchmark) is not benchmark:
                raise ValueError(f"two benchmarks are called {benchmark.name}, one of them in {__name__}.{name}")
    return tuple(sorted(found.values(), key=lambda benchmark: (benchmark.place, benchmark.name)))


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises InputError if there is none."""
    for benchmark in all_benchmarks():
        if benchmark.name == name:
            return benchmark
    raise InputError(f"there is no benchmark {name!r}, only {', '.join(entry.name for entry in all_benchmarks())}")


def made_from(answers_file: Path) -> set[Path]:
    """The files that benchmarks make from an answer file, there or not: misleading once the answers are others."""
    endings = {".score.json", ".items.json", ".run.json"}
    endings |= {ending for entry in all_benchmarks() for ending in entry.by_products}
    names = {entry.submission for entry in all_benchmarks() if entry.submission is not None}
    endings |= {name.removeprefix("merge") for name in names if name.startswith("merge.")}
    files = {answers_file.with_suffix(ending) for ending in endings}
    if answers_file.name == "merge.jsonl":
        files |= {answers_file.with_name(name) for name in names}
    return files
