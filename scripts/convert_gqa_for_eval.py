"""Turn GQA answers into the predictions that GQA's own scorer reads."""

from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.eval.submission import convert_gqa


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--src", required=True, type=Path, help="answers, JSON lines")
    parser.add_argument("--dst", required=True, type=Path, help="such as testdev_balanced_predictions.json")
    args = parser.parse_args()
    print(convert_gqa(args.src, args.dst))


if __name__ == "__main__":
    run_command(main)
