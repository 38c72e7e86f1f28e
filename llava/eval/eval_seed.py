"""SEED-Bench: accuracy, also on images and videos, and per type of question.

Li et al., "SEED-Bench: Benchmarking Multimodal LLMs with Generative Comprehension", CVPR 2024, arXiv 2307.16125.
"""

from pathlib import Path

from llava.cli import run_command
from llava.errors import InputError
from llava.eval.items import Items, accuracy_items
from llava.eval.mmbench import OPTIONS
from llava.eval.scoring import (
    accuracy,
    accuracy_by,
    join_answers,
    named_option,
    read_answers,
    score_command,
)
from llava.files import read_json_object


def evaluate(annotation_file: Path, result_file: Path) -> tuple[dict, dict[str, Items]]:
    """`samples` and `accuracy` in percent, in all and under `data_type` and `question_type`, joined by id.

    And the items of the accuracy, where a video is a picture.
    The option that an answer names is read by `named_option`; `no_option` counts answers that name none, which are
    wrong. LLaVA's own scorer takes the bare letter alone, which its published answers are. Raises InputError if a
    question has no answer or several, an answer no question, or a label is none of A to D.
    """
    from llava.eval.rows import SeedLabel, SeedLabels, check

    annotations = read_json_object(annotation_file, "annotation file")
    check(annotations, SeedLabels, f"annotation file {annotation_file}")
    questions = annotations["questions"]
    if not questions:
        raise InputError(f"the annotation file {annotation_file} has no questions")
    for number, question in enumerate(questions, start=1):
        check(question, SeedLabel, f"annotation file {annotation_file}, question {number}")
    type_names = {number: name for name, number in annotations["question_type"].items()}
    if unnamed := {question["question_type_id"] for question in questions} - type_names.keys():
        raise InputError(f"annotation file {annotation_file}: no name for question type {min(unnamed)}")
    answers = join_answers(read_answers(result_file), [q["question_id"] for q in questions], result_file)
    chosen = [named_option(answers[str(q["question_id"])], OPTIONS) for q in questions]
    hits = [letter == q["answer"] for letter, q in zip(chosen, questions)]
    scores = accuracy(hits) | {
        "no_option": chosen.count(None),
        "data_type": accuracy_by([q["data_type"] for q in questions], hits),
        "question_type": accuracy_by([type_names[q["question_type_id"]] for q in questions], hits),
    }
    ids = [q["question_id"] for q in questions]
    pictures = [f"{q['data_type']} {q.get('data_id', q['question_id'])}" for q in questions]
    return scores, {"accuracy": accuracy_items(ids, pictures, hits)}


def main() -> None:
    score_command("Score SEED-Bench answers.", evaluate)


if __name__ == "__main__":
    run_command(main)
