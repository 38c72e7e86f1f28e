"""POPE: does the model see objects that are not there?

Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023, arXiv 2305.10355.
"""

from pathlib import Path

from llava.cli import CommandParser
from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark, Headline, Scored
from llava.eval.benchmarks.files import read_jsonl
from llava.eval.benchmarks.items import Item, make_items
from llava.eval.benchmarks.questions import Question
from llava.eval.benchmarks.scoring import (
    add_result_arguments,
    ids_of,
    join_answers,
    read_answers,
    report_scores,
    score_file_of,
)

PREFIX = "coco_pope_"


def says_yes(answer: str) -> bool:
    """POPE's reading of an answer: no if its first sentence has the word No, no or not, else yes."""
    words = answer.split(".")[0].replace(",", "").split()
    return not {"No", "no", "not"} & set(words)


def score(said: list[bool], truth: list[bool]) -> dict[str, float]:
    """Counts, and accuracy, precision, recall, F1 and share of yes in percent (0 where nothing can be divided)."""
    pairs = list(zip(said, truth, strict=True))
    tp, fp = pairs.count((True, True)), pairs.count((True, False))
    tn, fn = pairs.count((False, False)), pairs.count((False, True))

    def percent(part: int, whole: int) -> float:
        return 100 * part / whole if whole else 0.0

    return {
        "samples": len(pairs),
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
        "accuracy": percent(tp + tn, len(pairs)),
        "precision": percent(tp, tp + fp),
        "recall": percent(tp, tp + fn),
        "f1": percent(2 * tp, 2 * tp + fp + fn),
        "yes_ratio": percent(tp + fp, len(pairs)),
    }


def _item(question: dict, said: bool, truth: bool) -> Item:
    """What a question gives to its category's F1, 2 TP / (2 TP + FP + FN)."""
    part = 2 * (said and truth)
    return str(question["question_id"]), question["image"], part, part or said != truth


def read_labels(file: Path) -> dict[tuple[str, str], bool]:
    """Whether the answer is yes, by (image, question)."""
    from llava.eval.benchmarks.rows import QuestionRow

    labels = {}
    for row in read_jsonl(file, "annotation file", ["image", "text", "label"], schema=QuestionRow):
        if row["label"] not in ("yes", "no"):
            raise InputError(f"{file}: the label of {row['text']!r} is {row['label']!r}, neither yes nor no")
        if labels.setdefault((row["image"], row["text"]), row["label"] == "yes") != (row["label"] == "yes"):
            raise InputError(f"{file} has contradictory labels for {row['text']!r} on {row['image']}")
    return labels


def evaluate(
    annotation_dir: Path,
    question_file: Path,
    result_file: Path,
    allow_missing: bool = False,
    sample: list[Question] | None = None,
) -> Scored:
    """POPE's scores by category, joined by (image, question).

    Given a `sample`, the other questions of the file do not count.
    Raises InputError if a question has no answer or, without `allow_missing`, no label; those without are counted.
    """
    from llava.eval.benchmarks.rows import QuestionRow

    fields = ["question_id", "image", "text", "category"]
    questions = read_jsonl(question_file, "question file", fields, schema=QuestionRow)
    if sample is not None:
        ids = ids_of(sample)
        questions = [question for question in questions if str(question["question_id"]) in ids]
    answers = join_answers(read_answers(result_file), [q["question_id"] for q in questions], result_file)
    files = {path.stem.removeprefix(PREFIX): path for path in sorted(annotation_dir.glob(f"{PREFIX}*.json"))}
    if not files:
        raise InputError(f"no annotation files {PREFIX}*.json in {annotation_dir}")
    if unknown := {q["category"] for q in questions} - files.keys():
        raise InputError(f"no annotation file in {annotation_dir} for the category {', '.join(sorted(unknown))}")

    categories, terms = {}, {}
    for category, file in files.items():
        labels = read_labels(file)
        asked = [(q, (q["image"], q["text"].split("\n")[0])) for q in questions if q["category"] == category]
        labelled = [(q, key) for q, key in asked if key in labels]
        missing = len(asked) - len(labelled)
        if missing and not allow_missing:
            raise InputError(f"{missing} of the {len(asked)} {category} questions have no label in {file}")
        if labelled:
            said = [says_yes(answers[str(q["question_id"])]) for q, _ in labelled]
            truth = [labels[key] for _, key in labelled]
            categories[category] = score(said, truth) | {"missing_labels": missing}
            terms[category] = [_item(q, *pair) for (q, _), *pair in zip(labelled, said, truth)]
    if not categories:
        raise InputError(f"no question of {question_file} has a label in {annotation_dir}")
    items = make_items(terms)
    scores = {"categories": categories, "mean_f1": items.figure}
    return Scored(scores, describe(scores), {"mean_f1": items})


def describe(scores: dict) -> str:
    """POPE's counts and percentages, category by category, and the mean F1."""
    lines = []
    for name, values in scores["categories"].items():
        lines.append(f"Category: {name}, # samples: {values['samples']}")
        if values["missing_labels"]:
            lines.append(f"NOT SCORED, no label: {values['missing_labels']}")
        lines.append("TP\tFP\tTN\tFN\n{tp}\t{fp}\t{tn}\t{fn}".format(**values))
        for key in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            lines.append(f"{key.replace('_', ' ').capitalize()}: {values[key]:.2f} %")
    return "\n".join([*lines, f"Mean F1: {scores['mean_f1']:.2f} %"])


QUESTIONS = "llava_pope_test.jsonl"

BENCHMARKS = (
    Benchmark(
        name="pope",
        folder="pope",
        questions=QUESTIONS,
        headlines=(Headline("POPE F1", "mean_f1"),),
        images="val2014",
        labels=("coco",),
        score=lambda data, answers, sample: evaluate(data / "coco", data / QUESTIONS, answers, sample=sample),
        place=6,
    ),
)


def main() -> None:
    parser = CommandParser(description="Score POPE answers.")
    parser.add_argument("--annotation-dir", required=True, type=Path, help=f"folder of {PREFIX}<category>.json")
    parser.add_argument("--question-file", required=True, type=Path)
    add_result_arguments(parser)
    parser.add_argument("--allow-missing", action="store_true", help="score only the questions that have a label")
    args = parser.parse_args()
    score_file_of(args)
    report_scores(evaluate(args.annotation_dir, args.question_file, args.result_file, args.allow_missing), args)
