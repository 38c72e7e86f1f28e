"""MMBench: plain accuracy on a split with public labels (dev), also per category.

Liu et al., "MMBench: Is Your Multi-modal Model an All-around Player?", ECCV 2024, arXiv 2307.06281. The leaderboard's
figure is another: there a question counts if it is answered right in every order of its options.
"""

from collections import defaultdict
from pathlib import Path

from llava.eval.questions import OPTIONS, options_of, read_mmbench_table
from llava.eval.scoring import (
    accuracy,
    accuracy_by,
    chosen_option,
    group_answers,
    read_answers,
    score_command,
)
from llava.utils import InputError, run_command


def answered_letter(row: dict, result_file: Path) -> str | None:
    """The letter that the chosen option has in the question file: in later rounds it is shown under another."""
    letters = row.get("option_char", list(OPTIONS))
    if not isinstance(letters, list) or len(letters) > len(OPTIONS):
        raise InputError(f"{result_file}: option_char of {row['question_id']!r} is no list of letters")
    return dict(zip(OPTIONS, letters)).get(chosen_option(row["text"], OPTIONS))


def evaluate(annotation_file: Path, result_file: Path) -> dict:
    """`samples` and `accuracy` in percent, in all and under `category`, joined by index.

    Of answers in all rounds a question counts if every round is right. Raises InputError if a question or round has no
    answer or several, or an answer no question, or if the file has no labels.
    """
    labels = {
        int(row["index"]): row for row in read_mmbench_table(annotation_file, [*OPTIONS[:2], "answer", "category"])
    }
    for index, label in labels.items():
        if label["answer"] not in OPTIONS:
            raise InputError(f"annotation file {annotation_file}: the answer to {index} is {label['answer']!r}")
    rows = read_answers(result_file)
    all_rounds = any(row.get("round_id") for row in rows)
    wanted = [
        (index, shift)
        for index, label in labels.items()
        for shift in range(max(1, len(options_of(label))) if all_rounds else 1)
    ]
    pairs = [((row["question_id"], row.get("round_id", 0)), answered_letter(row, result_file)) for row in rows]
    right = defaultdict(list)
    for (index, _), letters in group_answers(pairs, wanted, result_file).items():
        right[index].append(letters == [labels[index]["answer"]])
    hits = [all(right[index]) for index in labels]
    return accuracy(hits) | {"category": accuracy_by([label["category"] for label in labels.values()], hits)}


def main() -> None:
    score_command("Score MMBench answers.", evaluate)


if __name__ == "__main__":
    run_command(main)
