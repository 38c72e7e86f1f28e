"""The benchmark of answering: every way is asked the same questions, and all agree."""

import json

import pytest

from llava.eval.benchmarks.questions import Question
from scripts.benchmarks import answering
from tests.eval.conftest import assert_one_line


def test_every_image_gets_as_many_questions(tmp_path):
    asked = [Question(i, f"Q{i}", tmp_path / f"{i % 3}.png", f"Q{i}") for i in range(7)]
    chosen = answering.choose_questions(asked, 2, 4)
    assert [question.asked for question in chosen] == ["Q0", "Q3", "Q6", "Q0", "Q1", "Q4", "Q1", "Q4"]
    assert len({question.question_id for question in chosen}) == 8


def test_all_ways_give_the_same_answers(call, checkpoints, pope, tmp_path):
    options = ["--model-path", checkpoints(), "--device", "cpu", "--question-file", pope / "llava_pope_test.jsonl"]
    options += ["--image-folder", pope / "val2014", "--max_new_tokens", 3, "--visual_token_num", 16]
    small = ["--images", 2, "--per-image", 3, "--rounds", 1, "--output", tmp_path / "out.json"]
    code, out, _ = call(answering, *options, *small)
    assert code == 0
    assert "images and prefixes shared" in out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["questions"] == 6
    assert [way["same_answers"] for way in result["arrangements"].values()] == [6, 6, 6]
    first = result["arrangements"]["one at a time"]["questions_per_second"]
    for arrangement in result["arrangements"].values():  # of one round least, median and most are one
        assert arrangement["least"] == arrangement["questions_per_second"] == arrangement["most"]
        assert arrangement["times_faster"] == pytest.approx(arrangement["questions_per_second"] / first)
    assert_one_line(call(answering, *options, "--rounds", 0), "must be at least 1")
