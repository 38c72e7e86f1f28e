"""SEED-Bench: accuracy, also on images and videos, and per type of question.

Li et al., "SEED-Bench: Benchmarking Multimodal LLMs with Generative Comprehension", CVPR 2024, arXiv 2307.16125.
"""

from pathlib import Path

from llava.eval.files import require_fields
from llava.eval.questions import OPTIONS
from llava.eval.scoring import (
    accuracy,
    accuracy_by,
    chosen_option,
    join_answers,
    read_answers,
    score_command,
)
from llava.utils import InputError, read_json_object, run_command


def evaluate(annotation_file: Path, result_file: Path) -> dict:
    """`samples` and `accuracy` in percent, in all and under `data_type` and `question_type`, joined by id.

    The option that an answer chooses is read by `chosen_option`. Raises InputError if a question has no answer or
    several, or an answer no question.
    """
    annotations = read_json_object(annotation_file, "annotation file")
    require_fields(annotations, ["question_type", "questions"], f"annotation file {annotation_file}")
    questions = annotations["questions"]
    if not isinstance(questions, list) or not questions:
        raise InputError(f"the annotation file {annotation_file} has no questions")
    for question in questions:
        fields = ["question_id", "question_type_id", "data_type", "answer"]
        require_fields(question, fields, f"annotation file {annotation_file}")
    type_names = {number: name for name, number in annotations["question_type"].items()}
    if unnamed := {question["question_type_id"] for question in questions} - type_names.keys():
        raise InputError(f"annotation file {annotation_file}: no name for question type {min(unnamed)}")
    answers = join_answers(read_answers(result_file), [q["question_id"] for q in questions], result_file)
    hits = [chosen_option(answers[str(q["question_id"])], OPTIONS) == q["answer"] for q in questions]
    return accuracy(hits) | {
        "data_type": accuracy_by([q["data_type"] for q in questions], hits),
        "question_type": accuracy_by([type_names[q["question_type_id"]] for q in questions], hits),
    }


def main() -> None:
    score_command("Score SEED-Bench answers.", evaluate)


if __name__ == "__main__":
    run_command(main)
