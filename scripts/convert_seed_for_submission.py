"""Turn SEED-Bench answers into what its leaderboard takes, and print their accuracy.

A prediction is the answer's whole text, as in LLaVA's uploads. The accuracy also counts an answer that names its
option in a longer text, such as `B. red`, as `eval_seed` does.
"""

from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.eval.eval_seed import evaluate
from llava.eval.scoring import describe_accuracy
from llava.eval.submission import convert_seed


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--annotation-file", required=True, type=Path, help="SEED-Bench.json")
    parser.add_argument("--result-file", required=True, type=Path, help="answers, JSON lines")
    parser.add_argument("--result-upload-file", required=True, type=Path)
    args = parser.parse_args()
    scores, _ = evaluate(args.annotation_file, args.result_file)  # which checks both files
    said = convert_seed(args.annotation_file, args.result_file, args.result_upload_file)
    print(f"{describe_accuracy(scores)}\n{said}")


if __name__ == "__main__":
    run_command(main)
