"""The answer file: JSON lines of `question_id`, `prompt`, `text`, `answer_id`, `model_id`, `metadata`.

As a command it merges the files of several processes:
python -m llava.eval.answers --question-file Q --answers-files A B ... --output M
"""

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from pathlib import Path

import shortuuid

from llava.eval.files import read_jsonl
from llava.eval.questions import Question, read_mmbench_questions, read_science_questions
from llava.utils import CommandParser, InputError, atomic_writer, read_text, run_command


def answer_line(question: Question, text: str, model_id: str) -> str:
    """One line of an answer file."""
    row = {
        "question_id": question.question_id,
        "prompt": question.prompt,
        "text": text,
        **question.extra,
        "answer_id": shortuuid.uuid(),
        "model_id": model_id,
        "metadata": {},
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def mismatches(
    found: Iterable[Hashable], wanted: Iterable[Hashable]
) -> tuple[list[Hashable], list[Hashable], list[Hashable]]:
    """Which of the `wanted` were found too rarely, which too often, and what was found that is not wanted.

    Something wanted twice is to be found twice.
    """
    found, wanted = Counter(iter(found)), Counter(iter(wanted))  # iter: a dict's values would be taken for counts
    missing = [key for key, count in wanted.items() if found[key] < count]
    surplus = [key for key, count in wanted.items() if found[key] > count]
    return missing, surplus, [key for key in found if key not in wanted]


def _keys(question_file: str | Path, rows: list[dict]) -> tuple[list[tuple], list[tuple]]:
    """What tells the questions of a file apart, in its order, and the same of each of its answers."""
    if Path(question_file).suffix == ".tsv":
        all_rounds = any(row.get("round_id") for row in rows)
        questions = read_mmbench_questions(question_file, all_rounds=all_rounds)
        wanted = [(question.question_id, question.extra["round_id"]) for question in questions]
        return wanted, [(row["question_id"], row.get("round_id", 0)) for row in rows]
    if read_text(question_file, "question file").lstrip().startswith("["):
        # The prompt depends on an option of the command that asked, and ids are unique.
        questions = read_science_questions(question_file, Path(), single_pred_prompt=False)
        return [(question.question_id,) for question in questions], [(row["question_id"],) for row in rows]
    questions = read_jsonl(question_file, "question file", ["question_id", "text"])
    wanted = [(question["question_id"], question["text"]) for question in questions]
    return wanted, [(row["question_id"], row["prompt"]) for row in rows]


def merge_answers(question_file: str | Path, answers_files: list[str], output: str | Path) -> int:
    """Write the answers of several files as one, in the order of the questions; returns how many.

    An answer belongs to the question with its `question_id` and text (in MME and TextVQA ids alone are not unique),
    in MMBench with its id and round, in ScienceQA with its id. Raises InputError, naming them, if a question has no
    answer or several, or an answer no question.
    """
    fields = ["question_id", "prompt", "text"]
    rows = [row for file in answers_files for row in read_jsonl(file, "answers file", fields, may_be_empty=True)]
    wanted, found = _keys(question_file, rows)
    missing, surplus, unknown = mismatches(found, wanted)
    for what, keys in (
        ("unanswered", missing),
        ("answered more than once", surplus),
        ("not in the question file", unknown),
    ):
        if keys:
            some = ", ".join(str(key[0]) for key in keys[:5])
            raise InputError(f"cannot merge into {output}: {len(keys)} question(s) {what}: {some}")
    by_key = defaultdict(list)
    for key, row in zip(found, rows, strict=True):
        by_key[key].append(row)
    with atomic_writer(output) as file:
        file.writelines(json.dumps(by_key[key].pop(0), ensure_ascii=False) + "\n" for key in wanted)
    return len(wanted)


def main() -> None:
    parser = CommandParser(description="Merge answer files in the order of the questions, each exactly once.")
    parser.add_argument("--question-file", required=True)
    parser.add_argument("--answers-files", required=True, nargs="+")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    count = merge_answers(args.question_file, args.answers_files, args.output)
    print(f"{count} answers in {args.output}")


if __name__ == "__main__":
    run_command(main)
