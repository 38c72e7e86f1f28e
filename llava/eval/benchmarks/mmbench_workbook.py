"""The workbook that MMBench's server takes: the question file's table with the predictions."""

import re
from pathlib import Path

from llava.cli import CommandParser
from llava.errors import InputError
from llava.eval.benchmarks.mmbench_table import OPTIONS, is_absent, read_mmbench_table
from llava.eval.benchmarks.submission import answers_to
from llava.files import atomic_writer, require_writable

LEFT_OUT = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION_AT = 6
# A workbook is made of XML 1.0, which has no way to write any other character.
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LONGEST_CELL = 32_767


def convert(annotation_file: Path, result_file: Path, upload_file: Path) -> str:
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
    header = [name for name in questions[0] if name not in LEFT_OUT]
    header.insert(PREDICTION_AT, "prediction")
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


def submit() -> None:
    """Turn MMBench answers into the workbook that its server takes: the question file's table with the predictions."""
    parser = CommandParser(description=submit.__doc__)
    parser.add_argument("--annotation-file", required=True, type=Path, help="the questions, tab-separated")
    parser.add_argument("--result-dir", required=True, type=Path, help="folder of the answers, EXPERIMENT.jsonl")
    parser.add_argument("--upload-dir", required=True, type=Path, help="folder of the upload, EXPERIMENT.xlsx")
    parser.add_argument("--experiment", required=True)
    args = parser.parse_args()
    answers, upload = args.result_dir / f"{args.experiment}.jsonl", args.upload_dir / f"{args.experiment}.xlsx"
    require_writable(upload)
    print(convert(args.annotation_file, answers, upload))
