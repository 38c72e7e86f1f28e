"""MMBench: plain accuracy on a split with public labels (dev), also per category.

Liu et al., "MMBench: Is Your Multi-modal Model an All-around Player?", ECCV 2024, arXiv 2307.06281. The leaderboard's
figure is another: there a question counts if it is answered right in every order of its options.
"""

from collections import defaultdict
from pathlib import Path

from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark, Headline, Scored
from llava.eval.benchmarks.items import accuracy_items
from llava.eval.benchmarks.mmbench_table import INDEX, OPTIONS, first_rows_of_pictures, options_of, read_mmbench_table
from llava.eval.benchmarks.mmbench_workbook import convert, submit
from llava.eval.benchmarks.questions import Question, read_mmbench_questions
from llava.eval.benchmarks.scoring import (
    accuracy,
    accuracy_by,
    describe_accuracy,
    group_answers,
    ids_of,
    named_option,
    read_answers,
    score_command,
)


def answered_letter(row: dict, label: dict, where: str) -> str | None:
    """The letter that the option which an answer names has in the question file; None if it names none.

    In later rounds an option is shown under another letter: `option_char` has those of the file in the order shown.
    Raises InputError, saying where, if the option that is right was not shown, or one was twice.
    """
    letters = row.get("option_char", list(options_of(label)))
    if len(set(letters)) < len(letters) or label["answer"] not in letters:
        raise InputError(f"{where} was asked with the options {', '.join(letters)}, the label is {label['answer']}")
    return dict(zip(sorted(letters), letters)).get(named_option(row["text"], letters))


def _index(question_id: int | str) -> int | str:
    """The index that an id is: 7 and "7" are the same."""
    return int(question_id) if INDEX.fullmatch(str(question_id)) else question_id


def evaluate(annotation_file: Path, result_file: Path, questions: list[Question] | None = None) -> Scored:
    """`samples` and `accuracy` in percent, in all and under `category`, joined by index.

    Of answers in all rounds a question counts if every round is right. The option that an answer names is read by
    `named_option`; `no_option` counts answers that name none, which are wrong. Given `questions`, the labels of others
    do not count. Raises InputError if a question or round
    has no answer or several, an answer no question, or a label is none of the question's options.
    """
    table = read_mmbench_table(annotation_file, [*OPTIONS[:2], "answer", "category"])
    wanted = None if questions is None else ids_of(questions)
    labels = {int(row["index"]): row for row in table if wanted is None or str(int(row["index"])) in wanted}
    for index, label in labels.items():
        if label["answer"] not in options_of(label):
            says = f"the answer to {index} is {label['answer'][:60]!r}, none of its options"
            raise InputError(f"annotation file {annotation_file}: {says}")
    rows = read_answers(result_file)
    all_rounds = any(row.get("round_id") for row in rows)
    rounds = {index: len(options_of(label)) if all_rounds else 1 for index, label in labels.items()}
    wanted = [(index, shift) for index, count in rounds.items() for shift in range(count)]
    pairs = [((_index(row["question_id"]), row.get("round_id", 0)), row) for row in rows]
    right, without = defaultdict(list), 0
    for (index, _), (row,) in group_answers(pairs, wanted, result_file).items():
        letter = answered_letter(row, labels[index], f"{result_file}: question {index}")
        without += letter is None
        right[index].append(letter == labels[index]["answer"])
    hits = [all(right[index]) for index in labels]
    categories = accuracy_by([label["category"] for label in labels.values()], hits)
    items = accuracy_items(labels, first_rows_of_pictures(list(labels.values())), hits)
    scores = accuracy(hits) | {"no_option": without, "category": categories}
    return Scored(scores, describe_accuracy(scores), {"accuracy": items})


def _split(name: str, heading: str, table: str, language: str, place: int) -> Benchmark:
    return Benchmark(
        name=name,
        folder="mmbench",
        questions=table,
        headlines=(Headline(heading),),
        read=lambda file, _: read_mmbench_questions(file, single_pred_prompt=True, lang=language),
        score=lambda data, answers, questions: evaluate(data / table, answers, questions),
        convert=lambda data, answers, upload: convert(data / table, answers, upload),
        submission="merge.xlsx",
        submit=submit,
        needs=("openpyxl",),
        max_new_tokens=1024,
        place=place,
    )


BENCHMARKS = (
    _split("mmbench", "MMB", "mmbench_dev_20230712.tsv", "en", 8),
    _split("mmbench_cn", "MMB-CN", "mmbench_dev_cn_20231003.tsv", "cn", 9),
)


def main() -> None:
    score_command("Score MMBench answers.", evaluate)
