"""GQA: exact match, also per structural and semantic type of question.

Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question Answering",
CVPR 2019, arXiv 1902.09506.
"""

from pathlib import Path

from llava.cli import run_command
from llava.errors import InputError
from llava.eval.items import Items, accuracy_items
from llava.eval.scoring import (
    accuracy,
    accuracy_by,
    join_answers,
    read_answers,
    score_command,
)
from llava.files import read_json_object

TYPES = ("structural", "semantic")


def gqa_prediction(text: str) -> str:
    """An answer as LLaVA's converter gives it to GQA's scorer: in lower case, without the full stops at its end."""
    return text.rstrip(".").lower()


def evaluate(annotation_file: Path, result_file: Path) -> tuple[dict, dict[str, Items]]:
    """`samples` and `accuracy` in percent, in all and under `structural` and `semantic` by type, joined by id.

    And the items of the accuracy.
    Raises InputError if a question has no answer or several, an answer no question, or a label a wrong type.
    """
    from llava.eval.rows import GqaLabel, check

    labels = read_json_object(annotation_file, "annotation file")
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
    return scores, {"accuracy": accuracy_items(labels, pictures, hits)}


def main() -> None:
    score_command("Score GQA answers.", evaluate)


if __name__ == "__main__":
    run_command(main)
