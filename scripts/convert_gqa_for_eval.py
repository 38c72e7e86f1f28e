"""Turn GQA answers into the predictions that GQA's own scorer reads."""

from pathlib import Path

from llava.eval.eval_gqa import gqa_prediction
from llava.eval.submission import unique_answers, write_upload
from llava.utils import CommandParser, run_command


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--src", required=True, type=Path, help="answers, JSON lines")
    parser.add_argument("--dst", required=True, type=Path, help="such as testdev_balanced_predictions.json")
    args = parser.parse_args()
    answers = unique_answers(args.src)
    predictions = [{"questionId": number, "prediction": gqa_prediction(text)} for number, text in answers.items()]
    write_upload(args.dst, predictions)
    print(f"{len(predictions)} answers in {args.dst}")


if __name__ == "__main__":
    run_command(main)
