"""VQAv2: VQA accuracy on a split with public labels (val), also per type of answer.

Goyal et al., "Making the V in VQA Matter", CVPR 2017, arXiv 1612.00837.
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
from llava.eval.vqa_accuracy import vqa_accuracy
from llava.files import read_json_object


def evaluate(annotation_file: Path, result_file: Path) -> tuple[dict, dict[str, Items]]:
    """`samples` and VQA `accuracy` in percent, in all and under `answer_type` by type, joined by id.

    And the items of the accuracy.
    Raises InputError if a question has no answer or several, an answer no question, or a label a wrong type.
    """
    from llava.eval.rows import VqaLabel, check

    labels = read_json_object(annotation_file, "annotation file").get("annotations")
    if not isinstance(labels, list) or not labels:
        raise InputError(f"the annotation file {annotation_file} has no annotations")
    for number, label in enumerate(labels, start=1):
        check(label, VqaLabel, f"annotation file {annotation_file}, annotation {number}")
    answers = join_answers(read_answers(result_file), [label["question_id"] for label in labels], result_file)
    hits = [
        vqa_accuracy(answers[str(label["question_id"])], [given["answer"] for given in label["answers"]])
        for label in labels
    ]
    ids = [label["question_id"] for label in labels]
    pictures = [label.get("image_id", f"of {number}") for number, label in zip(ids, labels)]
    scores = accuracy(hits) | {"answer_type": accuracy_by([label["answer_type"] for label in labels], hits)}
    return scores, {"accuracy": accuracy_items(ids, pictures, hits)}


def main() -> None:
    score_command("Score VQAv2 answers.", evaluate)


if __name__ == "__main__":
    run_command(main)
