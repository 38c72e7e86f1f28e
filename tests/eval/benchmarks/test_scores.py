"""The scores of the benchmarks, on files in their formats, and what is refused."""

import json

import pytest

from llava.eval.benchmarks import gqa as eval_gqa
from llava.eval.benchmarks import mmbench as eval_mmbench
from llava.eval.benchmarks import seed as eval_seed
from llava.eval.benchmarks import textvqa as eval_textvqa
from llava.eval.benchmarks.scoring import chosen_option, named_option
from tests.conftest import write_jsonl
from tests.eval.benchmarks.score_cases import CASES, WORD, approx, mmbench, seed, textvqa
from tests.eval.benchmarks.tables import write_table
from tests.eval.conftest import assert_one_line


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """A scorer, its labels, its answers' rows, and the scores they have."""
    make, module, expected = CASES[request.param]
    labels, rows = make(tmp_path)
    return module, labels, rows, expected


def test_scores_are_printed_and_written(score, case, tmp_path):
    module, labels, rows, expected = case
    code, out, _ = score(module, labels, rows)
    assert code == 0
    found = json.loads((tmp_path / "a.score.json").read_text())
    assert found == expected
    assert f"Samples: 3\nAccuracy: {found['accuracy']:.2f} %" in out
    assert score(module, labels, rows[::-1], "--output", tmp_path / "scores" / "s.json")[0] == 0
    assert json.loads((tmp_path / "scores" / "s.json").read_text()) == expected
    for grouping in (value for value in expected.values() if isinstance(value, dict)):
        for name in grouping:
            assert f"  {name}: " in out


def test_answers_and_labels_that_do_not_match_are_refused(score, case, tmp_path):
    module, labels, rows, _ = case
    result = tmp_path / "a.jsonl"
    for wrong, named in (
        (rows[1:], f"{result} lacks 1 of the 3 questions, such as "),
        ([*rows, rows[0]], "answers 1 question(s) more than once, such as "),
        ([*rows, rows[0] | {"question_id": 999}], "answers 1 question(s) that have no label, such as "),
        ([*rows[1:], rows[0] | {"text": None}], "text is None"),
    ):
        assert_one_line(score(module, labels, wrong), named)
    result.write_text('{"question_id": ')
    assert_one_line(score(module, labels), "line 1: not JSON")
    result.unlink()
    assert_one_line(score(module, labels), "cannot read the result file")
    assert not list(tmp_path.glob("*.score.json*"))


def test_labels_that_cannot_be_read_are_named(score, case):
    module, labels, rows, _ = case
    for text in ("{}", "[]", "nothing", '{"data": [{}], "annotations": [{}], "question_type": {}, "questions": [{}]}'):
        labels.write_text(text)
        assert_one_line(score(module, labels, rows), str(labels))
    labels.unlink()
    assert_one_line(score(module, labels, rows), f"{labels}")


def test_textvqa_scores_a_question_that_was_asked_twice_by_both_labels(call, tmp_path):
    labels, rows = textvqa(tmp_path)
    data = json.loads(labels.read_text())["data"]
    data.append(data[1] | {"question_id": 9, "answers": ["go"] * 10})
    labels.write_text(json.dumps({"data": data}))
    options = ["--annotation-file", labels, "--result-dir", tmp_path]
    write_jsonl(tmp_path / "a.jsonl", [*rows, rows[1]])
    assert call(eval_textvqa, *options)[0] == 0
    assert json.loads((tmp_path / "a.score.json").read_text()) == approx((60 + 50 + 50) / 4, 4)
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert_one_line(call(eval_textvqa, *options), "lacks 1 of the 4 questions, such as ('a', 'what does it say?')")
    assert_one_line(call(eval_textvqa, "--annotation-file", labels), "give either --result-file")


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        (f"What?\nReference OCR token: A, B\n{WORD}", "What?"),
        (f"Two\nlines?\nReference OCR token: \n{WORD}", "Two lines?"),
        (f"Reference OCR token: A\nWhat?\n{WORD}", "What?"),
        (f"What?\n{WORD}", "What?"),
        ("What?", "What?"),
    ],
)
def test_textvqa_s_question_is_found_in_its_prompt(prompt, question):
    key = eval_textvqa.question_key("i", eval_textvqa.question_of(prompt))
    assert key == ("i", question.lower())


@pytest.mark.parametrize(
    ("text", "option"),
    [
        *[("B", "B"), ("B. red", "B"), ("So. The answer is B. It is", "B"), ("E", None), ("", None), ("AB", None)],
        *[("B.", None), ("b", None), ("The answer is A. The answer is B.", None), ("The answer is both.", None)],
        ("The answer is B, because it is red", "B"),
        ("The answer is B because it is red", "B"),
        ("The answer is B)", "B"),
        ("So: The answer is B\tand", "B"),
        ("The answer is B", None),  # the published scorer asks for a character after it
        ("The answer is B\nYes", None),
    ],
)
def test_an_option_is_read_as_by_science_qa_s_published_scorer(text, option):
    assert chosen_option(text, "ABCD") == option


@pytest.mark.parametrize(
    ("text", "option"),
    [
        *[
            (text, "B")
            for text in ("B", " B\n", "B.", "B. red", "(B)", "(B) red", "(B).", "B)", "B) red", "B:", "B: red")
        ],
        *[(text, "B") for text in ("The answer is B", "The answer is B.", "the answer is (B).", "The answer is: B")],
        *[(text, "B") for text in ("The answer is B, because", "（B）", "B：红色", "B。", "B. The answer is B.")],
        *[(text, None) for text in ("", "b", "BC", "B.C", "E.", "(E) red", "A red dog", "The answer is A red dog")],
        *[(text, None) for text in ("(A) or (B)", "A) no B) yes", "The answer is A. The answer is B.", "not B)")],
        *[(text, None) for text in ("The answer is Both.", "The answer is not B", "(A) is wrong, the answer is B")],
    ],
)
def test_an_option_is_read_in_every_unmistakable_form(text, option):
    assert named_option(text, "ABCD") == option


@pytest.mark.parametrize(("make", "module"), [(seed, eval_seed), (mmbench, eval_mmbench)])
def test_answers_that_name_no_option_are_counted(score, tmp_path, make, module):
    labels, rows = make(tmp_path)
    code, out, _ = score(module, labels, [row | {"text": text} for row, text in zip(rows, ("(A)", "red", ""))])
    assert code == 0
    assert "Counted as wrong, no option in the answer: 2\n" in out
    assert json.loads((tmp_path / "a.score.json").read_text())["no_option"] == 2


@pytest.mark.parametrize("text", ["Yes", "yes.", "YES..", "Yes..."])
def test_gqa_s_predictions_lose_all_full_stops_at_their_end(text):
    assert eval_gqa.gqa_prediction(text) == "yes"


def test_mmbench_in_all_rounds_counts_what_is_right_in_each(score, tmp_path):
    """In round 1 the options of two are swapped: B stands for A. The first is right twice, the others once."""
    labels, _ = mmbench(tmp_path)
    texts = {(1, 0): "B", (1, 1): "A", (2, 0): "A", (2, 1): "A", (3, 0): "B", (3, 1): "B"}
    rows = [
        {"question_id": i, "round_id": r, "text": text, "option_char": ["A", "B"][::-1] if r else ["A", "B"]}
        for (i, r), text in texts.items()
    ]
    assert "Accuracy: 33.33 %" in score(eval_mmbench, labels, rows)[1]
    assert_one_line(score(eval_mmbench, labels, rows[:-1]), "lacks 1 of the 6 questions, such as (3, 1)")


def test_mmbench_joins_an_index_written_as_text(score, tmp_path):
    labels, rows = mmbench(tmp_path)
    assert score(eval_mmbench, labels, [row | {"question_id": str(row["question_id"])} for row in rows])[0] == 0


def test_mmbench_s_labels_are_among_the_options(score, tmp_path):
    labels, rows = mmbench(tmp_path)
    few = [row | {"option_char": ["A"]} for row in rows]
    assert_one_line(score(eval_mmbench, labels, few), "question 1 was asked with the options A, the label is B")
    labels.write_text(labels.read_text().replace("\tB\tocr", "\tC\tocr"))
    assert_one_line(score(eval_mmbench, labels, rows), "the answer to 1 is 'C', none of its options")


def test_an_option_that_reads_none_can_be_right(score, tmp_path):
    """B reads None, an empty B is left out, and C keeps its letter."""
    row = {"index": 1, "question": "?", "A": "x", "C": "y", "answer": "C", "category": "ocr", "image": "AAAA"}
    write_table(tmp_path / "labels.tsv", [row, row | {"index": 2, "B": "None"}])
    answers = [{"question_id": i, "option_char": [*letters], "text": "C"} for i, letters in ((1, "AC"), (2, "ABC"))]
    assert "Accuracy: 100.00 %" in score(eval_mmbench, tmp_path / "labels.tsv", answers)[1]
