"""What the converters share: an answer file's answers by question, and an upload that is there whole or not at all."""

import json
from collections.abc import Collection
from pathlib import Path

from llava.eval.answers import mismatches
from llava.eval.scoring import join_answers, read_answers
from llava.utils import InputError, atomic_writer


def unique_answers(result_file: Path) -> dict[str, str]:
    """The answers of a file by the text of their `question_id`, in the file's order.

    Raises InputError if the file cannot be read or answers a question more than once.
    """
    rows = read_answers(result_file)
    return join_answers(rows, {str(row["question_id"]) for row in rows}, result_file)


def answers_to(
    question_ids: Collection[int | str], question_file: Path, result_file: Path, partial: bool = False
) -> dict[str, str]:
    """The answers of a file by the text of their `question_id`: 7 and "7" are the same id.

    Raises InputError if an answer is to none of the `question_ids`, which `question_file` has, or a question has
    several or, unless `partial`, none.
    """
    question_ids = list(map(str, question_ids))
    if again := len(question_ids) - len(set(question_ids)):
        raise InputError(f"the question file {question_file} has {again} id(s) more than once")
    answers = unique_answers(result_file)
    missing, _, unknown = mismatches(answers, question_ids)
    if unknown:
        says = f"answers {len(unknown)} question(s) that are not in {question_file}"
        raise InputError(f"{result_file} {says}, such as {unknown[0]!r}")
    if missing and not partial:
        says = f"lacks {len(missing)} of the {len(question_ids)} questions of {question_file}"
        raise InputError(f"{result_file} {says}, such as {missing[0]!r}")
    return answers


def write_upload(path: Path, upload: list | dict) -> None:
    """Write an upload as JSON, in ASCII as LLaVA's are: an answer may hold what UTF-8 cannot (half a surrogate pair).

    Raises InputError if the file cannot be written.
    """
    with atomic_writer(path) as file:
        file.write(json.dumps(upload))
