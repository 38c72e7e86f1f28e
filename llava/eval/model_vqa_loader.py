"""Answer a question file about pictures: POPE, GQA, VQAv2, VizWiz, TextVQA, MME, SEED-Bench and any of that format."""

from pathlib import Path

from llava.cli import run_command
from llava.eval.benchmarks.questions import read_question_file
from llava.eval.run.jobs import answer_from_command_line
from llava.inference.options import question_parser


def main(description: str = __doc__, max_new_tokens: int = 128) -> None:
    parser = question_parser(description, max_new_tokens)
    parser.add_argument("--image-folder", required=True, type=Path)
    args = parser.parse_args()
    answer_from_command_line(args, lambda: read_question_file(args.question_file, args.image_folder))


if __name__ == "__main__":
    run_command(main)
