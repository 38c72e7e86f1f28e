"""VizWiz: what its server takes.

Gurari et al., "VizWiz Grand Challenge: Answering Visual Questions from Blind People", CVPR 2018, arXiv 1802.08218.
"""

from pathlib import Path

from llava.eval.benchmarks.base import Benchmark, Headline
from llava.eval.benchmarks.files import read_jsonl
from llava.eval.benchmarks.submission import answers_to, submit_command, write_upload
from llava.eval.benchmarks.vqa_accuracy import normalize_answer

QUESTIONS = "llava_test.jsonl"


def convert(annotation_file: Path, result_file: Path, upload_file: Path) -> str:
    """What VizWiz's server takes: an answer to each image, in the order of the questions.

    Returns a line that says what was written. Raises InputError as `answers_to` does.
    """
    questions = read_jsonl(annotation_file, "annotation file", ["question_id", "image"])
    answers = answers_to([question["question_id"] for question in questions], annotation_file, result_file)
    upload = [
        {"image": question["image"], "answer": normalize_answer(answers[str(question["question_id"])])}
        for question in questions
    ]
    write_upload(upload_file, upload)
    return f"{len(upload)} answers in {upload_file}"


def submit() -> None:
    """Turn VizWiz answers into what the EvalAI server takes: an answer to each image, in the order of the questions."""
    options = {"annotation_file": f"the questions, {QUESTIONS}", "result_file": "answers, JSON lines"}
    submit_command(submit.__doc__, convert, **options, result_upload_file=None)


BENCHMARKS = (
    Benchmark(
        name="vizwiz",
        folder="vizwiz",
        questions=QUESTIONS,
        headlines=(Headline("VizWiz"),),
        images="test",
        convert=lambda data, answers, upload: convert(data / QUESTIONS, answers, upload),
        submission="merge.upload.json",
        submit=submit,
        place=3,
    ),
)
