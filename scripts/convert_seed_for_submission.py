"""Turn SEED-Bench answers into what its leaderboard takes, and print their accuracy.

A prediction is the answer's whole text, as in LLaVA's uploads. The accuracy also counts an answer that names its
option in a longer text, such as `B. red`, as `eval_seed` does.
"""

import json
from pathlib import Path

from llava.eval.eval_seed import evaluate
from llava.eval.scoring import print_scores
from llava.eval.submission import unique_answers
from llava.utils import CommandParser, atomic_writer, read_json_object, run_command


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--annotation-file", required=True, type=Path, help="SEED-Bench.json")
    parser.add_argument("--result-file", required=True, type=Path, help="answers, JSON lines")
    parser.add_argument("--result-upload-file", required=True, type=Path)
    args = parser.parse_args()
    scores = evaluate(args.annotation_file, args.result_file)  # which checks both files
    questions = read_json_object(args.annotation_file, "annotation file")["questions"]
    answers = unique_answers(args.result_file)
    with atomic_writer(args.result_upload_file) as file:
        for question in questions:
            row = {"question_id": question["question_id"], "prediction": answers[str(question["question_id"])]}
            file.write(json.dumps(row) + "\n")
    print_scores(scores)
    print(f"{len(answers)} answers in {args.result_upload_file}")


if __name__ == "__main__":
    run_command(main)
