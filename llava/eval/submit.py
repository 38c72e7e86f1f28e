"""Write the file that a benchmark's server takes from any answer file: python -m llava.eval.submit vqav2 --help

After answering, `python -m llava.eval` writes it by itself.
"""

import sys

from llava.cli import CommandParser, run_command
from llava.errors import InputError
from llava.eval.benchmarks import all_benchmarks, find_benchmark


def main(name: str | None = None) -> None:
    """The converter of a benchmark, which the command line names unless `name` does.

    Raises InputError for a benchmark that has nothing to submit.
    """
    if name is None:
        parser = CommandParser(description=__doc__, add_help=len(sys.argv) < 2 or sys.argv[1].startswith("-"))
        known = ", ".join(benchmark.name for benchmark in all_benchmarks() if benchmark.submit is not None)
        parser.add_argument("benchmark", help=known)
        name = parser.parse_known_args(sys.argv[1:2])[0].benchmark
        sys.argv[:2] = [f"{sys.argv[0]} {name}"]
    submit = find_benchmark(name).submit
    if submit is None:
        raise InputError(f"{name} has nothing to submit: python -m llava.eval {name} scores it")
    submit()


if __name__ == "__main__":
    run_command(main)
