"""Answer MMBench or MMBench-CN, a table with the images inside."""

from llava.cli import run_command
from llava.eval.benchmarks.questions import LETTER_SENTENCE, read_mmbench_questions
from llava.eval.run.jobs import answer_from_command_line
from llava.inference.options import question_parser


def main() -> None:
    parser = question_parser(__doc__, max_new_tokens=1024)
    parser.add_argument("--image-folder", help="not read: the images are in the question file")
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the option's letter")
    parser.add_argument("--lang", choices=LETTER_SENTENCE, default="en", help="language that asks for it (en)")
    parser.add_argument("--all-rounds", action="store_true", help="ask once with each option in first place")
    args = parser.parse_args()
    options = (args.single_pred_prompt, args.lang, args.all_rounds)
    answer_from_command_line(args, lambda: read_mmbench_questions(args.question_file, *options))


if __name__ == "__main__":
    run_command(main)
