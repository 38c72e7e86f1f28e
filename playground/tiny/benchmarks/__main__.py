"""Write the bundled benchmarks: python -m playground.tiny.benchmarks --output DIR"""

from pathlib import Path

from llava.cli import run_command
from playground.tiny.benchmarks import write
from playground.tiny.options import command_parser


def main() -> None:
    parser = command_parser("benchmarks", __doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder that gets one folder for each benchmark")
    write(parser.parse_args().output)


if __name__ == "__main__":
    run_command(main)
