"""Turn VizWiz answers into what the EvalAI server takes: an answer to each image, in the order of the questions."""

from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.eval.submission import convert_vizwiz


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--annotation-file", required=True, type=Path, help="the questions, llava_test.jsonl")
    parser.add_argument("--result-file", required=True, type=Path, help="answers, JSON lines")
    parser.add_argument("--result-upload-file", required=True, type=Path)
    args = parser.parse_args()
    print(convert_vizwiz(args.annotation_file, args.result_file, args.result_upload_file))


if __name__ == "__main__":
    run_command(main)
