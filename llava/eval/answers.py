"""The answer file: JSON lines of `question_id`, `prompt`, `text`, `answer_id`, `model_id`, `metadata`.

As a command it merges the files of several processes:
python -m llava.eval.answers --question-file Q --answers-files A B ... --output M
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import shortuuid

from llava.utils import CommandParser, InputError, one_line, read_text, run_command


def read_jsonl(path: str | Path, what: str, fields: Iterable[str], may_be_empty: bool = False) -> list[dict]:
    """The objects of a JSON-lines file. Raises InputError, naming the line, if one is broken or lacks a field."""
    rows = []
    for number, line in enumerate(read_text(path, what).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{what} {path}, line {number}: not JSON: {error}") from error
        if missing := [name for name in fields if not isinstance(row, dict) or name not in row]:
            raise InputError(f"{what} {path}, line {number}: no {', '.join(missing)}")
        rows.append(row)
    if not rows and not may_be_empty:
        raise InputError(f"the {what} {path} is empty")
    return rows


@contextlib.contextmanager
def atomic_writer(path: str | Path):
    """A text file open for writing that appears under its name only when it is complete.

    Until then it is `<name>.part`; an InputError on the way removes that, any other end leaves what was written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {one_line(error)}") from error
    with file:
        try:
            yield file
        except InputError:
            part.unlink()
            raise
    part.replace(path)


def answer_line(question: dict, text: str, model_id: str) -> str:
    """One line of an answer file."""
    row = {
        "question_id": question["question_id"],
        "prompt": question["text"],
        "text": text,
        "answer_id": shortuuid.uuid(),
        "model_id": model_id,
        "metadata": {},
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def merge_answers(question_file: str | Path, answers_files: list[str], output: str | Path) -> int:
    """Write the answers of several files as one, in the order of the questions; returns how many.

    An answer belongs to the question with its `question_id` and text (in MME ids alone are not unique). Raises
    InputError, naming them, if a question has no answer or several, or an answer no question.
    """
    wanted = [
        (q["question_id"], q["text"]) for q in read_jsonl(question_file, "question file", ["question_id", "text"])
    ]
    fields = ["question_id", "prompt", "text"]
    rows = [row for file in answers_files for row in read_jsonl(file, "answers file", fields, may_be_empty=True)]
    found = Counter((row["question_id"], row["prompt"]) for row in rows)
    for what, keys in (
        ("unanswered", [key for key in wanted if key not in found]),
        ("answered more than once", [key for key, count in found.items() if count > 1]),
        ("not in the question file", found.keys() - set(wanted)),
        ("more than once in the question file", [key for key, count in Counter(wanted).items() if count > 1]),
    ):
        if keys:
            some = ", ".join(str(key[0]) for key in list(keys)[:5])
            raise InputError(f"cannot merge into {output}: {len(keys)} question(s) {what}: {some}")
    by_key = {(row["question_id"], row["prompt"]): row for row in rows}
    with atomic_writer(output) as file:
        file.writelines(json.dumps(by_key[key], ensure_ascii=False) + "\n" for key in wanted)
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
