"""GQA: exact match, also per structural and semantic type of question.

Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question Answering",
CVPR 2019, arXiv 1902.09506.
"""

from pathlib import Path

from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark, Headline, Scored
from llava.eval.benchmarks.items import accuracy_items
from llava.eval.benchmarks.questions import Question
from llava.eval.benchmarks.scoring import (
    accuracy,
    accuracy_by,
    describe_accuracy,
    ids_of,
    join_answers,
    read_answers,
    score_command,
)
from llava.eval.benchmarks.submission import submit_command, unique_answers, write_upload
from llava.files import read_json_object

TYPES = ("structural", "semantic")


def gqa_prediction(text: str) -> str:
    """An answer as LLaVA's converter gives it to GQA's scorer: in lower case, without the full stops at its end."""
    return text.rstrip(".").lower()


def evaluate(annotation_file: Path, result_file: Path, questions: list[Question] | None = None) -> Scored:
    """`samples` and `accuracy` in percent, in all and under `structural` and `semantic` by type, joined by id.

    Given `questions`, the labels of others do not count.
    Raises InputError if a question has no answer or several, an answer no question, or a label a wrong type.
    """
    from llava.eval.benchmarks.rows import GqaLabel, check

    labels = read_json_object(annotation_file, "annotation file")
    if questions is not None:
        ids = ids_of(questions)
        labels = {question_id: label for question_id, label in labels.items() if question_id in ids}
    if not labels:
        raise InputError(f"the annotation file {annotation_file} has no questions")
    for question_id, label in labels.items():
        check(label, GqaLabel, f"annotation file {annotation_file}, question {question_id}")
    answers = join_answers(read_answers(result_file), labels, result_file)
    hits = [gqa_prediction(answers[question_id]) == label["answer"] for question_id, label in labels.items()]
    scores = accuracy(hits)
    for kind in TYPES:
        # Absent types are null in the file.
        scores[kind] = accuracy_by([str(label["types"][kind]) for label in labels.values()], hits)
    pictures = [label.get("imageId", f"of {question_id}") for question_id, label in labels.items()]
    return Scored(scores, describe_accuracy(scores), {"accuracy": accuracy_items(labels, pictures, hits)})


def convert(result_file: Path, upload_file: Path) -> str:
    """Write the predictions that GQA's own scorer reads. Returns a line that says what was written."""
    answers = unique_answers(result_file)
    write_upload(
        upload_file, [{"questionId": number, "prediction": gqa_prediction(text)} for number, text in answers.items()]
    )
    return f"{len(answers)} answers in {upload_file}"


def submit() -> None:
    """Turn GQA answers into the predictions that GQA's own scorer reads."""
    options = {"src": "answers, JSON lines", "dst": "such as testdev_balanced_predictions.json"}
    submit_command(submit.__doc__, convert, **options)


LABELS = "data/questions/testdev_balanced_questions.json"
BENCHMARKS = (
    Benchmark(
        name="gqa",
        folder="gqa",
        questions="llava_gqa_testdev_balanced.jsonl",
        headlines=(Headline("GQA"),),
        images="data/images",
        labels=(LABELS,),
        score=lambda data, answers, questions: evaluate(data / LABELS, answers, questions),
        convert=lambda _, answers, upload: convert(answers, upload),
        submission="testdev_balanced_predictions.json",
        submit=submit,
        place=2,
    ),
)


def main() -> None:
    score_command("Score GQA answers.", evaluate)
