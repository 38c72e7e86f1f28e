"""Turn MM-Vet answers into what its grader takes: one object with an answer under each question's name."""

from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.eval.submission import convert_mmvet


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--src", required=True, type=Path, help="answers, JSON lines")
    parser.add_argument("--dst", required=True, type=Path)
    args = parser.parse_args()
    print(convert_mmvet(args.src, args.dst))


if __name__ == "__main__":
    run_command(main)
