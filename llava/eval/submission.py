"""Answers -> the files that the benchmarks' servers and scorers take, each there whole or not at all."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from llava.errors import InputError
from llava.eval.eval_gqa import gqa_prediction
from llava.eval.files import iterate_jsonl, read_jsonl
from llava.eval.mmbench import OPTIONS, is_absent, read_mmbench_table
from llava.eval.scoring import join_answers, read_answers
from llava.eval.vqa_accuracy import normalize_answer
from llava.files import atomic_writer, read_json_object

MMBENCH_LEFT_OUT = ("hint", "category", "source", "image", "comment", "l2-category")
MMBENCH_PREDICTION_AT = 6
# A workbook is made of XML 1.0, which has no way to write any other character.
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LONGEST_CELL = 32_767


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


def convert_vqav2(test_file: Path, result_file: Path, upload_file: Path) -> str:
    """What VQAv2's server takes: an entry for every question of test2015, of which test-dev is a part.

    Returns a line that says what was written. Raises InputError for an id that is no number, which the server asks for,
    and as `answers_to` does.
    """
    ids = []
    for row in iterate_jsonl(test_file, "test file", ["question_id"]):
        try:
            ids.append(int(str(row["question_id"])))
        except ValueError as error:
            raise InputError(f"test file {test_file}: the id {row['question_id']!r} is not a whole number") from error
    answers = answers_to(ids, test_file, result_file, partial=True)
    upload = [{"question_id": number, "answer": normalize_answer(answers.get(str(number), ""))} for number in ids]
    write_upload(upload_file, upload)
    return f"{len(answers)} of {len(ids)} questions have an answer in {upload_file}"


def convert_gqa(result_file: Path, upload_file: Path) -> str:
    """The predictions that GQA's own scorer reads. Returns a line that says what was written."""
    answers = unique_answers(result_file)
    write_upload(
        upload_file, [{"questionId": number, "prediction": gqa_prediction(text)} for number, text in answers.items()]
    )
    return f"{len(answers)} answers in {upload_file}"


def convert_vizwiz(annotation_file: Path, result_file: Path, upload_file: Path) -> str:
    """What VizWiz's server takes: an answer to each image, in the order of the questions.

    Returns a line that says what was written. Raises InputError as `answers_to` does.
    """
    questions = read_jsonl(annotation_file, "annotation file", ["question_id", "image"])
    answers = answers_to([question["question_id"] for question in questions], annotation_file, result_file)
    upload = [
        {"image": question["image"], "answer": normalize_answer(answers[str(question["question_id"])])}
        for question in questions
    ]
    write_upload(upload_file, upload)
    return f"{len(upload)} answers in {upload_file}"


def convert_mmvet(result_file: Path, upload_file: Path) -> str:
    """What MM-Vet's grader takes: an answer under each question's name. Returns a line that says what was written."""
    answers = {f"v1_{number}": text for number, text in unique_answers(result_file).items()}
    write_upload(upload_file, answers)
    return f"{len(answers)} answers in {upload_file}"


def convert_seed(annotation_file: Path, result_file: Path, upload_file: Path) -> str:
    """What SEED-Bench's leaderboard takes: each answer's whole text, as in LLaVA's uploads.

    Returns a line that says what was written. The files must fit each other, as `eval_seed.evaluate` checks.
    """
    questions = read_json_object(annotation_file, "annotation file")["questions"]
    answers = unique_answers(result_file)
    with atomic_writer(upload_file) as file:
        for question in questions:
            row = {"question_id": question["question_id"], "prediction": answers[str(question["question_id"])]}
            file.write(json.dumps(row) + "\n")
    return f"{len(answers)} answers in {upload_file}"


def convert_mmbench(annotation_file: Path, result_file: Path, upload_file: Path) -> str:
    """The workbook that MMBench's server takes: the question file's table with the predictions.

    Returns a line that says what was written. Raises InputError as `mmbench_table` and `write_workbook` do.
    """
    table = mmbench_table(annotation_file, result_file)
    write_workbook(upload_file, table)
    return f"{len(table) - 1} answers in {upload_file}"


def mmbench_table(annotation_file: Path, result_file: Path) -> list[list[int | str | None]]:
    """The header and, in the order of the questions, a row for each, with None where the question file has nothing.

    Raises InputError if a question has no answer or several, an answer no question, or a cell cannot be written.
    """
    questions = read_mmbench_table(annotation_file, ["question", *OPTIONS[:2]])
    indices = [int(question["index"]) for question in questions]
    answers = answers_to(indices, annotation_file, result_file)
    header = [name for name in questions[0] if name not in MMBENCH_LEFT_OUT]
    header.insert(MMBENCH_PREDICTION_AT, "prediction")
    table = [header]
    for index, question in zip(indices, questions):
        cells = {name: None if is_absent(cell) else cell for name, cell in question.items()}
        cells |= {letter: question[letter] or None for letter in OPTIONS if letter in question}
        # A model may say anything, and one such answer must not keep the others from being submitted.
        cells |= {"index": index, "prediction": NOT_IN_XML.sub("\ufffd", answers[str(index)])}
        for name in header:
            check_cell(cells[name], f"{result_file if name == 'prediction' else annotation_file}, {index}, {name}")
        table.append([cells[name] for name in header])
    return table


def check_cell(cell: int | str | None, where: str) -> None:
    """Raise InputError, saying where, if a workbook cannot hold a cell."""
    text = str(cell)
    if odd := NOT_IN_XML.search(text):
        raise InputError(f"{where}: .xlsx cannot hold the character {odd[0]!a}")
    if len(text) > LONGEST_CELL:
        raise InputError(f"{where}: {len(text)} characters are more than the {LONGEST_CELL} that .xlsx can hold")


def write_workbook(path: Path, table: list[list[int | str | None]]) -> None:
    """Write rows as an .xlsx, whole or not at all. Raises InputError without openpyxl or if it cannot be written."""
    try:
        from openpyxl import Workbook
    except ImportError as error:
        raise InputError("writing .xlsx needs openpyxl: pip install -e '.[eval]'") from error
    workbook = Workbook()
    sheet = workbook.active
    sheet.title = "Sheet1"  # as in LLaVA's uploads, which pandas names
    for i, row in enumerate(table, start=1):
        for j, value in enumerate(row, start=1):
            cell = sheet.cell(i, j, value)
            if isinstance(value, str):
                cell.data_type = "s"  # else what begins with = is a formula
    with atomic_writer(path) as file:
        workbook.save(file.buffer)  # the bytes below the text file
