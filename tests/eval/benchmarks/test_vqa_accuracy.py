"""VQA accuracy and the normal form of answers."""

import json

import pytest

from llava.eval.benchmarks.vqa_accuracy import normalize_answer, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Two Dogs.", "2 dogs"),
        ("ten\nof\tthe twelve", "10 of twelve"),
        ("A cat, an owl; the end!", "cat owl end"),
        ("None", "0"),
        ("3.5 m.", "3.5 m"),
        ("1,000", "1000"),
        ("red-and-white", "red and white"),
        ("red - white", "red white"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("its", "its"),
        ("the", ""),
        ("", ""),
    ],
)
def test_answers_are_compared_in_their_normal_form(answer, normal):
    assert normalize_answer(answer) == normal


@pytest.mark.parametrize(("same", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_is_the_mean_over_annotators_of_a_third_for_each_other_who_agrees(same, expected):
    """With 2 of 10 agreeing: each of the two sees one other (1/3), each of the eight sees two (2/3): 6/10."""
    assert vqa_accuracy("Yes.", ["yes"] * same + ["no"] * (10 - same)) == pytest.approx(expected)


def test_every_normal_form_of_the_reference_is_reproduced(reference):
    cases = json.loads((reference / "answers" / "normalized.json").read_text())
    assert [normalize_answer(case["raw"]) for case in cases] == [case["normalized"] for case in cases]


def test_the_accuracy_of_the_reference_is_reproduced(reference):
    cases = json.loads((reference / "answers" / "vqa_accuracy.json").read_text())
    scores = [vqa_accuracy(item["pred_answer"], item["gt_answers"]) for item in cases["items"]]
    assert sum(scores) / len(scores) == pytest.approx(cases["accuracy"], abs=1e-12)
