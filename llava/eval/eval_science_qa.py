"""ScienceQA: accuracy, of all questions and of those with an image.

Lu et al., "Learn to Explain: Multimodal Reasoning via Thought Chains for Science Question Answering", NeurIPS 2022,
arXiv 2209.09513.
"""

from collections.abc import Sequence
from pathlib import Path

from llava.eval.files import require_fields, write_json
from llava.eval.scoring import accuracy, add_result_arguments, chosen_option, join_answers, read_answers, save_scores
from llava.utils import CommandParser, InputError, read_json_object, run_command

UNREADABLE = "FAILED"


def read_problems(base_dir: Path, split: str) -> dict[str, dict]:
    """The problems of a split, by id. Raises InputError if it is unknown, empty or lacks a problem."""
    splits = read_json_object(base_dir / "pid_splits.json", "list of splits")
    if not splits.get(split):
        raise InputError(f"no split {split!r} in {base_dir / 'pid_splits.json'}, only {', '.join(splits)}")
    problems = read_json_object(base_dir / "problems.json", "problem file")
    require_fields(problems, splits[split], f"problem file {base_dir / 'problems.json'}")
    for problem_id in splits[split]:
        fields = ["choices", "answer", "image"]
        require_fields(problems[problem_id], fields, f"problem file {base_dir / 'problems.json'}, {problem_id}")
    return {problem_id: problems[problem_id] for problem_id in splits[split]}


def evaluate(
    base_dir: Path, result_file: Path, split: str = "test", options: Sequence[str] = tuple("ABCDE")
) -> tuple[dict, list[dict]]:
    """ScienceQA's scores and the reading of each answer, joined by id.

    Returns:
        `samples` and `accuracy` in percent, `image_samples` and `image_accuracy` (None where no question has an image);
        and for each question, in the order of the split, `question_id`, `parsed_ans` (a letter or FAILED),
        `ground_truth`, `question`, `pred`, `is_multimodal`.

    Raises InputError if a question of the split has no answer or several, or an answer no question.
    """
    problems = read_problems(base_dir, split)
    rows = read_answers(result_file, ["prompt"])
    answers = join_answers(rows, problems, result_file)
    prompts = {str(row["question_id"]): row["prompt"] for row in rows}
    read = []
    for problem_id, problem in problems.items():
        if not 0 <= problem["answer"] < len(problem["choices"]) <= len(options):
            raise InputError(f"problem {problem_id}: answer {problem['answer']} of {len(problem['choices'])} choices")
        read.append(
            {
                "question_id": problem_id,
                "parsed_ans": chosen_option(answers[problem_id], options) or UNREADABLE,
                "ground_truth": options[problem["answer"]],
                "question": prompts[problem_id],
                "pred": answers[problem_id],
                "is_multimodal": bool(problem["image"]),
            }
        )
    hits = [row["parsed_ans"] == row["ground_truth"] for row in read]
    image_hits = [hit for hit, row in zip(hits, read, strict=True) if row["is_multimodal"]]
    scores = accuracy(hits) | {"image_samples": len(image_hits), "image_accuracy": None}
    if image_hits:
        scores["image_accuracy"] = accuracy(image_hits)["accuracy"]
    return scores, read


def upstream_results(scores: dict, read: list[dict], options: Sequence[str]) -> dict:
    """LLaVA's result file: accuracy, counts, and each answer's text and the number of its option (-1: unreadable)."""
    right = sum(row["parsed_ans"] == row["ground_truth"] for row in read)
    numbers = {UNREADABLE: -1} | {letter: number for number, letter in enumerate(options)}
    return {
        "acc": scores["accuracy"],
        "correct": right,
        "count": len(read),
        "results": {row["question_id"]: numbers[row["parsed_ans"]] for row in read},
        "outputs": {row["question_id"]: row["pred"] for row in read},
    }


def describe(scores: dict, read: list[dict]) -> str:
    """Counts and accuracies, and how many answers named no option."""
    right = sum(row["parsed_ans"] == row["ground_truth"] for row in read)
    lines = [f"Total: {len(read)}, Correct: {right}, Accuracy: {scores['accuracy']:.2f} %"]
    if scores["image_samples"]:
        lines.append(f"Questions with an image: {scores['image_samples']}, Accuracy: {scores['image_accuracy']:.2f} %")
    if unreadable := sum(row["parsed_ans"] == UNREADABLE for row in read):
        lines.append(f"Counted as wrong, no option in the answer: {unreadable}")
    return "\n".join(lines)


def write_results(
    scores: dict, read: list[dict], options: Sequence[str], output_file: Path | None, output_result: Path | None
) -> None:
    """Write LLaVA's two files, where they are wanted: right and wrong answers, and the option read from each."""
    if output_file:
        right = [row for row in read if row["parsed_ans"] == row["ground_truth"]]
        wrong = [row for row in read if row["parsed_ans"] != row["ground_truth"]]
        write_json(output_file, {"correct": right, "incorrect": wrong})
    if output_result:
        write_json(output_result, upstream_results(scores, read, options))


def main() -> None:
    parser = CommandParser(description="Score ScienceQA answers.")
    parser.add_argument("--base-dir", required=True, type=Path, help="folder of problems.json and pid_splits.json")
    add_result_arguments(parser)
    parser.add_argument("--output-file", type=Path, help="right and wrong answers, as JSON (not written)")
    parser.add_argument("--output-result", type=Path, help="the option read from each answer, as JSON (not written)")
    parser.add_argument("--split", default="test", help="split of pid_splits.json (test)")
    parser.add_argument("--options", type=list, default=list("ABCDE"), help="letters of the options (ABCDE)")
    args = parser.parse_args()
    scores, read = evaluate(args.base_dir, args.result_file, args.split, args.options)
    print(describe(scores, read))
    write_results(scores, read, args.options, args.output_file, args.output_result)
    save_scores(scores, args)


if __name__ == "__main__":
    run_command(main)
