"""ScienceQA: accuracy, of all questions and of those with an image.

Lu et al., "Learn to Explain: Multimodal Reasoning via Thought Chains for Science Question Answering", NeurIPS 2022,
arXiv 2209.09513.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from llava.cli import CommandParser, output_file
from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark, Headline, Scored
from llava.eval.benchmarks.files import require_fields
from llava.eval.benchmarks.items import Items, accuracy_items
from llava.eval.benchmarks.questions import Question, read_science_questions
from llava.eval.benchmarks.scoring import (
    accuracy,
    add_result_arguments,
    chosen_option,
    join_answers,
    named_option,
    read_answers,
    report_scores,
    score_file_of,
)
from llava.files import read_json_object, write_json

UNREADABLE = "FAILED"


def read_problems(base_dir: Path, split: str, questions: list[Question] | None = None) -> dict[str, dict]:
    """The problems of a split by id, or those of some `questions`.

    Raises InputError if the split is unknown or empty, or a problem is missing or broken.
    """
    from llava.eval.benchmarks.rows import ScienceProblem, check

    file = base_dir / "pid_splits.json"
    splits = read_json_object(file, "list of splits")
    if not splits.get(split):
        raise InputError(f"no split {split!r} in {file}, only {', '.join(splits)}")
    ids = check(splits, dict[str, list[str]], f"list of splits {file}")[split]
    if questions is not None:
        ids = [str(question.question_id) for question in questions]
    if len(set(ids)) < len(ids):
        raise InputError(f"list of splits {file}: {split} has {len(ids) - len(set(ids))} id(s) more than once")
    file = base_dir / "problems.json"
    problems = read_json_object(file, "problem file")
    require_fields(problems, ids, f"problem file {file}")
    for number in ids:
        check(problems[number], ScienceProblem, f"problem file {file}, {number}")
    return {number: problems[number] for number in ids}


def evaluate(
    base_dir: Path,
    result_file: Path,
    split: str = "test",
    options: Sequence[str] = tuple("ABCDE"),
    questions: list[Question] | None = None,
) -> tuple[Scored, list[dict]]:
    """ScienceQA's scores, with items of `accuracy` and `image_accuracy`, and how each answer is read; joined by id.

    The option that an answer chooses is read by `chosen_option`, as for the published figures: `A.`, `(A)`, `A)` and
    `A:` are none there.

    Returns:
        `samples` and `accuracy` in percent, `image_samples` and `image_accuracy` (None where no question has an image),
        `no_option`, the answers that choose none and are wrong, and `named_accuracy` and `named_image_accuracy`, the
        same accuracies with options read by `named_option` too;
        and for each question, in the order of the split, `question_id`, `parsed_ans` (a letter or FAILED),
        `ground_truth`, `question`, `pred`, `is_multimodal`.

    Raises InputError if a question of the split has no answer or several, or an answer no question.
    """
    problems = read_problems(base_dir, split, questions)
    rows = read_answers(result_file, ["prompt"])
    answers = join_answers(rows, problems, result_file)
    prompts = {str(row["question_id"]): row["prompt"] for row in rows}
    read, named_hits = [], []
    for problem_id, problem in problems.items():
        if not 0 <= problem["answer"] < len(problem["choices"]) <= len(options):
            raise InputError(f"problem {problem_id}: answer {problem['answer']} of {len(problem['choices'])} choices")
        text, letters, truth = answers[problem_id], options[: len(problem["choices"])], options[problem["answer"]]
        chosen = chosen_option(text, options)
        read.append(
            {
                "question_id": problem_id,
                "parsed_ans": chosen if chosen in letters else UNREADABLE,
                "ground_truth": truth,
                "question": prompts[problem_id],
                "pred": text,
                "is_multimodal": bool(problem["image"]),
            }
        )
        named_hits.append((chosen or named_option(text, letters)) == truth)
    hits = list(map(_is_right, read))
    scores, image_accuracy = accuracy(hits), _image_accuracy(read, hits)
    scores |= {"image_samples": sum(row["is_multimodal"] for row in read), "image_accuracy": image_accuracy}
    scores["no_option"] = sum(row["parsed_ans"] == UNREADABLE for row in read)
    scores["named_accuracy"] = accuracy(named_hits)["accuracy"]
    scores["named_image_accuracy"] = _image_accuracy(read, named_hits)
    items = {"accuracy": _items(read)}
    if with_image := [row for row in read if row["is_multimodal"]]:
        items["image_accuracy"] = _items(with_image)
    return Scored(scores, describe(scores, read), items), read


def _is_right(row: dict) -> bool:
    return row["parsed_ans"] == row["ground_truth"]


def _items(read: list[dict]) -> Items:
    """The items of the accuracy of some questions, each of which has a picture of its own or none."""
    ids = [row["question_id"] for row in read]
    return accuracy_items(ids, ids, map(_is_right, read))


def _image_accuracy(read: list[dict], hits: list[bool]) -> float | None:
    """The accuracy in percent of questions with an image; None if there is none."""
    hits = [hit for row, hit in zip(read, hits, strict=True) if row["is_multimodal"]]
    return accuracy(hits)["accuracy"] if hits else None


def upstream_results(scores: dict, read: list[dict], options: Sequence[str]) -> dict:
    """LLaVA's result file: accuracy, counts, and each answer's text and the number of its option (-1: unreadable)."""
    numbers = {UNREADABLE: -1} | {letter: number for number, letter in enumerate(options)}
    return {
        "acc": scores["accuracy"],
        "correct": sum(map(_is_right, read)),
        "count": len(read),
        "results": {row["question_id"]: numbers[row["parsed_ans"]] for row in read},
        "outputs": {row["question_id"]: row["pred"] for row in read},
    }


def describe(scores: dict, read: list[dict]) -> str:
    """Counts and accuracies, and how many answers named no option."""
    right = sum(map(_is_right, read))
    lines = [f"Total: {len(read)}, Correct: {right}, Accuracy: {scores['accuracy']:.2f} %"]
    if scores["image_samples"]:
        lines.append(f"Questions with an image: {scores['image_samples']}, Accuracy: {scores['image_accuracy']:.2f} %")
    lines.append(f"Counted as wrong, no option in the answer: {scores['no_option']}")
    if scores["named_accuracy"] != scores["accuracy"]:
        images = scores["named_image_accuracy"]
        named = f"{scores['named_accuracy']:.2f} %" + ("" if images is None else f", with an image {images:.2f} %")
        lines.append(f"Read as well, unlike for published figures, A., (A), A) and A: give {named}")
    return "\n".join(lines)


def write_results(
    scores: dict, read: list[dict], options: Sequence[str], output_file: Path | None, output_result: Path | None
) -> None:
    """Write LLaVA's two files, where they are wanted: right and wrong answers, and the option read from each."""
    if output_file:
        right = [row for row in read if _is_right(row)]
        wrong = [row for row in read if not _is_right(row)]
        write_json(output_file, {"correct": right, "incorrect": wrong}, sort_keys=False)
    if output_result:
        write_json(output_result, upstream_results(scores, read, options), sort_keys=False)


def _score(data: Path, answers: Path, questions: list[Question] | None) -> Scored:
    scored, read = evaluate(data, answers, questions=questions)
    output, result = answers.with_suffix(".output.json"), answers.with_suffix(".result.json")
    write_results(scored.scores, read, tuple("ABCDE"), output, result)
    return scored


BENCHMARKS = (
    Benchmark(
        name="sqa",
        folder="scienceqa",
        questions="llava_test_CQM-A.json",
        headlines=(Headline("SQA-I", "image_accuracy"),),
        images="images/test",
        labels=("problems.json", "pid_splits.json"),
        read=partial(read_science_questions, single_pred_prompt=True),
        score=_score,
        by_products=(".output.json", ".result.json"),
        max_new_tokens=1024,
        place=4,
    ),
)


def main() -> None:
    parser = CommandParser(description="Score ScienceQA answers.")
    parser.add_argument("--base-dir", required=True, type=Path, help="folder of problems.json and pid_splits.json")
    add_result_arguments(parser)
    parser.add_argument("--output-file", type=output_file, help="right and wrong answers, as JSON (not written)")
    parser.add_argument(
        "--output-result", type=output_file, help="the option read from each answer, as JSON (not written)"
    )
    parser.add_argument("--split", default="test", help="split of pid_splits.json (test)")
    parser.add_argument("--options", type=list, default=list("ABCDE"), help="letters of the options (ABCDE)")
    args = parser.parse_args()
    score_file_of(args)
    scored, read = evaluate(args.base_dir, args.result_file, args.split, args.options)
    write_results(scored.scores, read, args.options, args.output_file, args.output_result)
    report_scores(scored, args)
