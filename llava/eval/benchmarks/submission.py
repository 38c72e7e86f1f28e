"""What the converters share: answers joined to questions, and uploads written whole or not at all."""

import json
from collections.abc import Callable, Collection
from pathlib import Path

from llava.cli import CommandParser, output_file
from llava.errors import InputError
from llava.eval.benchmarks.scoring import join_answers, read_answers
from llava.files import atomic_writer


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
    wanted = set(question_ids)
    if again := len(question_ids) - len(wanted):
        raise InputError(f"the question file {question_file} has {again} id(s) more than once")
    answers = unique_answers(result_file)
    unknown = [key for key in answers if key not in wanted]
    missing = [key for key in question_ids if key not in answers]
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


def submit_command(description: str, convert: Callable[..., str], **options: str | None) -> None:
    """The whole of a converter whose options are paths.

    Args:
        description: of the command.
        convert: takes the paths in the order of `options`, returns the line to print.
        options: the help of each option, by its name; the last is the file that is written.
    """
    parser = CommandParser(description=description)
    for name, text in options.items():
        kind = output_file if name == [*options][-1] else Path
        parser.add_argument(f"--{name.replace('_', '-')}", required=True, type=kind, help=text)
    args = parser.parse_args()
    print(convert(*(getattr(args, name) for name in options)))
