"""Turn MM-Vet answers into what its grader takes: one object with an answer under each question's name."""

from pathlib import Path

from llava.eval.submission import unique_answers, write_upload
from llava.utils import CommandParser, run_command


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--src", required=True, type=Path, help="answers, JSON lines")
    parser.add_argument("--dst", required=True, type=Path)
    args = parser.parse_args()
    answers = {f"v1_{number}": text for number, text in unique_answers(args.src).items()}
    write_upload(args.dst, answers)
    print(f"{len(answers)} answers in {args.dst}")


if __name__ == "__main__":
    run_command(main)
