"""SEED-Bench: accuracy, also on images and videos, and per type of question.

Li et al., "SEED-Bench: Benchmarking Multimodal LLMs with Generative Comprehension", CVPR 2024, arXiv 2307.16125.
"""

import json
from pathlib import Path

from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark, Headline, Scored
from llava.eval.benchmarks.items import accuracy_items
from llava.eval.benchmarks.mmbench_table import OPTIONS
from llava.eval.benchmarks.questions import Question
from llava.eval.benchmarks.scoring import (
    accuracy,
    accuracy_by,
    describe_accuracy,
    ids_of,
    join_answers,
    named_option,
    read_answers,
    score_command,
)
from llava.eval.benchmarks.submission import submit_command, unique_answers
from llava.files import atomic_writer, read_json_object

LABELS = "SEED-Bench.json"


def evaluate(annotation_file: Path, result_file: Path, questions: list[Question] | None = None) -> Scored:
    """`samples` and `accuracy` in percent, in all and under `data_type` and `question_type`, joined by id.

    A video is a picture in the items. Given `questions`, the labels of others do not count.
    The option that an answer names is read by `named_option`; `no_option` counts answers that name none, which are
    wrong. LLaVA's own scorer takes the bare letter alone, which its published answers are. Raises InputError if a
    question has no answer or several, an answer no question, or a label is none of A to D.
    """
    from llava.eval.benchmarks.rows import SeedLabel, SeedLabels, check

    annotations = read_json_object(annotation_file, "annotation file")
    check(annotations, SeedLabels, f"annotation file {annotation_file}")
    labels = annotations["questions"]
    for number, label in enumerate(labels, start=1):
        check(label, SeedLabel, f"annotation file {annotation_file}, question {number}")
    if questions is not None:
        wanted = ids_of(questions)
        labels = [label for label in labels if str(label["question_id"]) in wanted]
    if not labels:
        raise InputError(f"the annotation file {annotation_file} has no questions")
    type_names = {number: name for name, number in annotations["question_type"].items()}
    if unnamed := {label["question_type_id"] for label in labels} - type_names.keys():
        raise InputError(f"annotation file {annotation_file}: no name for question type {min(unnamed)}")
    answers = join_answers(read_answers(result_file), [q["question_id"] for q in labels], result_file)
    chosen = [named_option(answers[str(q["question_id"])], OPTIONS) for q in labels]
    hits = [letter == q["answer"] for letter, q in zip(chosen, labels)]
    scores = accuracy(hits) | {
        "no_option": chosen.count(None),
        "data_type": accuracy_by([q["data_type"] for q in labels], hits),
        "question_type": accuracy_by([type_names[q["question_type_id"]] for q in labels], hits),
    }
    ids = [q["question_id"] for q in labels]
    pictures = [f"{q['data_type']} {q.get('data_id', q['question_id'])}" for q in labels]
    return Scored(scores, describe_accuracy(scores), {"accuracy": accuracy_items(ids, pictures, hits)})


def convert(annotation_file: Path, result_file: Path, upload_file: Path) -> str:
    """What SEED-Bench's leaderboard takes: each answer's whole text, as in LLaVA's uploads.

    Returns a line that says what was written. The files must fit each other, as `evaluate` checks.
    """
    questions = read_json_object(annotation_file, "annotation file")["questions"]
    answers = unique_answers(result_file)
    with atomic_writer(upload_file) as file:
        for question in questions:
            row = {"question_id": question["question_id"], "prediction": answers[str(question["question_id"])]}
            file.write(json.dumps(row) + "\n")
    return f"{len(answers)} answers in {upload_file}"


def _score_and_convert(annotation_file: Path, result_file: Path, upload_file: Path) -> str:
    scored = evaluate(annotation_file, result_file)  # which checks both files
    return f"{scored.description}\n{convert(annotation_file, result_file, upload_file)}"


def submit() -> None:
    """Turn SEED-Bench answers into what its leaderboard takes, and print their accuracy.

    A prediction is the answer's whole text, as in LLaVA's uploads. The accuracy also counts an answer that names its
    option in a longer text, such as `B. red`.
    """
    options = {"annotation_file": LABELS, "result_file": "answers, JSON lines", "result_upload_file": None}
    submit_command(submit.__doc__, _score_and_convert, **options)


BENCHMARKS = (
    Benchmark(
        name="seed",
        folder="seed_bench",
        questions="llava-seed-bench.jsonl",
        headlines=(Headline("SEED"),),
        images=".",
        labels=(LABELS,),
        score=lambda data, answers, questions: evaluate(data / LABELS, answers, questions),
        convert=lambda data, answers, upload: convert(data / LABELS, answers, upload),
        submission="merge.upload.jsonl",
        submit=submit,
        place=11,
    ),
)


def main() -> None:
    score_command("Score SEED-Bench answers.", evaluate)
