"""Turn MMBench answers into the workbook that its server takes: the question file's table with the predictions."""

from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.eval.submission import convert_mmbench


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--annotation-file", required=True, type=Path, help="the questions, tab-separated")
    parser.add_argument("--result-dir", required=True, type=Path, help="folder of the answers, EXPERIMENT.jsonl")
    parser.add_argument("--upload-dir", required=True, type=Path, help="folder of the upload, EXPERIMENT.xlsx")
    parser.add_argument("--experiment", required=True)
    args = parser.parse_args()
    answers, upload = args.result_dir / f"{args.experiment}.jsonl", args.upload_dir / f"{args.experiment}.xlsx"
    print(convert_mmbench(args.annotation_file, answers, upload))


if __name__ == "__main__":
    run_command(main)
