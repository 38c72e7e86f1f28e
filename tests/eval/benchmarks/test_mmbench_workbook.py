"""The workbook that MMBench's server takes: text stays text, and what a cell cannot hold is marked or named."""

import json
import sys

import openpyxl
import pytest

only_mmbench = pytest.mark.parametrize("case", ["mmbench"], indirect=True)


@only_mmbench
def test_what_looks_like_a_formula_is_text_in_the_workbook(case):
    case.run()
    sheet = openpyxl.load_workbook(case.upload).active
    assert [(sheet[cell].value, sheet[cell].data_type) for cell in ("G3", "D2")] == [("=1+1", "s"), ("=x", "s")]
    assert [sheet[cell].data_type for cell in ("A2", "A3", "C2")] == ["n", "n", "s"]


@only_mmbench
@pytest.mark.parametrize(("text", "cell"), [("a\x07b", "a\ufffdb"), ("\uffff\x00", "\ufffd\ufffd")])
def test_characters_of_an_answer_that_a_workbook_cannot_hold_are_marked(case, text, cell):
    case.answers.write_text("".join(json.dumps(row | {"text": text}) + "\n" for row in case.rows))
    assert case.run()[0] == 0
    assert openpyxl.load_workbook(case.upload).active["G3"].value == cell


@only_mmbench
def test_cells_of_the_table_that_a_workbook_cannot_hold_are_named(case):
    case.refuses([case.rows[0] | {"text": "A" * 40_000}, case.rows[1]], "5, prediction: 40000 characters are more")
    case.questions.write_text(case.questions.read_text().replace("Which?", "Whi\x0bch?"))
    case.refuses(case.rows, f"{case.questions}, 12, question: .xlsx cannot hold the character '\\x0b'")


@only_mmbench
def test_without_openpyxl_the_extra_is_named(case, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    case.refuses(case.rows, "pip install -e '.[eval]'")
