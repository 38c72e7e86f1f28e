"""Answer ScienceQA, whose questions have an image or none."""

from pathlib import Path

from llava.cli import run_command
from llava.eval.benchmarks.questions import read_science_questions
from llava.eval.run.jobs import answer_from_command_line
from llava.inference.options import question_parser


def main() -> None:
    parser = question_parser(__doc__, max_new_tokens=1024)
    parser.add_argument("--image-folder", required=True, type=Path)
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the option's letter")
    args = parser.parse_args()
    options = (args.image_folder, args.single_pred_prompt)
    answer_from_command_line(args, lambda: read_science_questions(args.question_file, *options))


if __name__ == "__main__":
    run_command(main)
