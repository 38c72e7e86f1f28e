"""TextVQA: VQA accuracy of answers that are to be read in the image.

Singh et al., "Towards VQA Models That Can Read", CVPR 2019, arXiv 1904.08920.
"""

from collections import Counter, defaultdict
from pathlib import Path

from llava.cli import CommandParser
from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark, Headline, Scored
from llava.eval.benchmarks.items import make_items
from llava.eval.benchmarks.questions import Question
from llava.eval.benchmarks.scoring import (
    accuracy,
    add_result_arguments,
    describe_accuracy,
    group_answers,
    read_answers,
    report_scores,
    score_file_of,
)
from llava.eval.benchmarks.vqa_accuracy import vqa_accuracy
from llava.files import read_json_object

LABELS = "TextVQA_0.5.1_val.json"
OCR = "Reference OCR token:"


def question_of(prompt: str) -> str:
    """The question of a prompt, without its line of OCR tokens and the sentence that says how to answer."""
    question, ocr, _ = prompt.partition(OCR)
    lines = prompt.strip().split("\n")
    if ocr and not question.strip():  # the tokens come first
        return "\n".join(lines[1:-1])
    if ocr:
        return question
    return "\n".join(lines[:-1] or lines)


def question_key(image_id: int | str, question: str) -> tuple[str, str]:
    """What joins an answer to its label: the image's id and the question in lower case, on one line."""
    return str(image_id), " ".join(question.lower().split())


def read_labels(annotation_file: Path) -> dict[tuple[str, str], list[list[str]]]:
    """The ten annotators' answers by `question_key`; several lists where a question appears several times.

    Raises InputError if the file is not TextVQA's with answers.
    """
    from llava.eval.benchmarks.rows import TextvqaLabel, check

    labels, data = defaultdict(list), read_json_object(annotation_file, "annotation file").get("data")
    for number, item in enumerate(data if isinstance(data, list) else (), start=1):
        check(item, TextvqaLabel, f"annotation file {annotation_file}, entry {number}")
        labels[question_key(item["image_id"], item["question"])].append(item["answers"])
    if not labels:
        raise InputError(f"the annotation file {annotation_file} has no questions under data")
    return labels


def evaluate(annotation_file: Path, result_file: Path, questions: list[Question] | None = None) -> Scored:
    """Number of `samples` and VQA `accuracy` in percent, joined by (image, question in lower case).

    The answers' `question_id` is the image's id. Raises InputError if a question has no answer or too many, or an
    answer no question. A question that appears twice in both files has no order: each of its answers is scored by the
    mean over its labels. Given `questions`, as many labels count as ask each of them.
    """
    labels = read_labels(annotation_file)
    if questions is not None:
        left = Counter(question_key(question.question_id, question_of(question.prompt)) for question in questions)
        labels = {key: lists[: left[key]] for key, lists in labels.items() if left[key]}
    rows = read_answers(result_file, ["prompt"])
    pairs = [(question_key(row["question_id"], question_of(row["prompt"])), row["text"]) for row in rows]
    answers = group_answers(pairs, [key for key, lists in labels.items() for _ in lists], result_file)
    items = [
        (f"{image}/{question}#{number}", image, _mean_accuracy(text, labels[image, question]), 1)
        for (image, question), texts in answers.items()
        for number, text in enumerate(texts)
    ]
    scores = accuracy([hit for _, _, hit, _ in items])
    return Scored(scores, describe_accuracy(scores), {"accuracy": make_items({"accuracy": items})})


def _mean_accuracy(text: str, lists: list[list[str]]) -> float:
    """The mean VQA accuracy of an answer over its lists of annotators' answers."""
    return sum(vqa_accuracy(text, annotators) for annotators in lists) / len(lists)


BENCHMARKS = (
    Benchmark(
        name="textvqa",
        folder="textvqa",
        questions="llava_textvqa_val_v051_ocr.jsonl",
        headlines=(Headline("TextVQA"),),
        images="train_images",
        labels=(LABELS,),
        score=lambda data, answers, questions: evaluate(data / LABELS, answers, questions),
        place=5,
    ),
)


def main() -> None:
    parser = CommandParser(description="Score TextVQA answers.")
    parser.add_argument("--annotation-file", required=True, type=Path, help=LABELS)
    add_result_arguments(parser, required=False)
    parser.add_argument("--result-dir", type=Path, help="score every .jsonl of this folder instead")
    args = parser.parse_args()
    if (args.result_file is None) == (args.result_dir is None) or (args.output and args.result_dir):
        raise InputError("give either --result-file, and --output or not, or --result-dir")
    files = [args.result_file] if args.result_file else sorted(args.result_dir.glob("*.jsonl"))
    if not files:
        raise InputError(f"no .jsonl files in {args.result_dir}")
    for args.result_file in files:
        score_file_of(args)
    for args.result_file in files:
        scored = evaluate(args.annotation_file, args.result_file)
        print(args.result_file.stem)
        report_scores(scored, args)
