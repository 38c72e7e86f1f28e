"""The lines of answer files, read and checked."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from llava.errors import InputError
from llava.eval.benchmarks.files import read_jsonl
from llava.files import read_text


def key_of_row(row: dict) -> tuple:
    """What tells the question of an answer from the others, as `answers.key_of_question` does."""
    return row["question_id"], row["prompt"], row.get("round_id", 0)


def read_rows(files: Iterable[str | Path]) -> list[dict]:
    """The answers of several files. Raises InputError, naming the line, for what is none."""
    fields = ("question_id", "prompt", "text")
    return [row for file in files for row in read_jsonl(file, "answers file", fields, may_be_empty=True)]


def check_answers(files: Iterable[Path], wanted: list[tuple]) -> list[tuple]:
    """The keys of the answers in files. Raises InputError, naming the line, for one that is not wanted, or no more."""
    left, keys = Counter(wanted), []
    known = set(left)
    for file in files:
        for i, key in enumerate(map(key_of_row, read_rows([file]))):
            left[key] -= 1
            if left[key] < 0:
                fault = "is answered a second time" if key in known else "is none of these questions"
                what = f"question {key[0]!r} {fault}: remove the line, and the same command goes on"
                raise InputError(f"answers file {file}, line {_line_number(file, i)}: {what}")
            keys.append(key)
    return keys


def _line_number(file: str | Path, row: int) -> int:
    """The line, from 1, of row `row`, from 0, of a file of JSON lines."""
    lines = (number for number, line in enumerate(read_text(file, "answers file").split("\n"), 1) if line.strip())
    return next(number for i, number in enumerate(lines) if i == row)


def drop_unfinished_line(path: Path) -> None:
    """Cut off what a killed process left of a line, and a last line that is no JSON."""
    with path.open("rb+") as file:
        text = file.read()
        end = text.rfind(b"\n") + 1
        last = text[:end].rstrip(b"\n").rfind(b"\n") + 1
        try:
            if end:
                json.loads(text[last:end])
        except (ValueError, RecursionError):
            end = last
        if end < len(text):
            file.truncate(end)
            os.fsync(file.fileno())
