"""Turn VizWiz answers into what the EvalAI server takes: an answer to each image, in the order of the questions."""

from pathlib import Path

from llava.eval.files import read_jsonl
from llava.eval.submission import answers_to, write_upload
from llava.eval.vqa_accuracy import normalize_answer
from llava.utils import CommandParser, InputError, run_command


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--annotation-file", required=True, type=Path, help="the questions, llava_test.jsonl")
    parser.add_argument("--result-file", required=True, type=Path, help="answers, JSON lines")
    parser.add_argument("--result-upload-file", required=True, type=Path)
    args = parser.parse_args()
    questions = read_jsonl(args.annotation_file, "annotation file", ["question_id", "image"])
    for question in questions:
        if not isinstance(question["image"], str):
            where = f"annotation file {args.annotation_file}, question {question['question_id']!r}"
            raise InputError(f"{where}: the image is not a string")
    answers = answers_to([question["question_id"] for question in questions], args.annotation_file, args.result_file)
    upload = [
        {"image": question["image"], "answer": normalize_answer(answers[str(question["question_id"])])}
        for question in questions
    ]
    write_upload(args.result_upload_file, upload)
    print(f"{len(upload)} answers in {args.result_upload_file}")


if __name__ == "__main__":
    run_command(main)
