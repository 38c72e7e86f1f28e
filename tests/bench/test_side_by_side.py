"""The programs side by side: the same prompts and tokens, each measured as a process of its own."""

import json
import sys
from dataclasses import replace

import pytest

from llava.errors import InputError
from llava.eval.benchmarks.questions import read_question_file
from llava.model.converting import convert_checkpoint
from llava.pruning import Settings
from scripts.benchmarks import side_by_side
from scripts.benchmarks.side_by_side import ORIGINAL, OURS, PRUNED, UNPRUNED, VLLM, Job, table
from tests.conftest import ROOT
from tests.eval.conftest import assert_one_line, table_of

CKPT = ROOT / "playground" / "checkpoints" / "llava-tiny"
SCENES = ROOT / "playground" / "data" / "scenes" / "textvqa"


@pytest.fixture
def job(tmp_path):
    convert_checkpoint(str(CKPT), tmp_path / "hf", "hf", 10**9)
    (question_file,) = SCENES.glob("*.jsonl")
    questions = read_question_file(question_file, SCENES / "train_images")[:12]
    return Job(str(CKPT), str(tmp_path / "hf"), questions, "vicuna_v1", Settings(8), 8, "cpu")


def test_pruned_ways_give_the_same_answers_and_the_unpruned_one_others(job):
    answers = {way: list(side_by_side.transformers_way(way, job)(job.questions)) for way in (UNPRUNED, PRUNED)}
    answers |= {way: side_by_side.llava_way(way, job)(job.questions) for way in (ORIGINAL, OURS)}
    assert answers[PRUNED] == answers[ORIGINAL] == answers[OURS] != answers[UNPRUNED]
    assert all(answers[OURS])


@pytest.mark.slow
def test_a_process_reports_what_it_took(job):
    row = side_by_side.run_way(OURS, job)
    assert len(row["texts"]) == 12
    assert 0 < row["ready"] < row["whole"]
    assert row["memory"] > 100 * 2**20
    assert row["rate"] * (row["whole"] - row["ready"]) > 12  # the answering is a part of the rest


def test_the_table_counts_equal_answers_and_compares_to_the_original(call, monkeypatch, pope, tmp_path):
    rates = dict(zip((*side_by_side.WAYS, VLLM), (10.0, 20.0, 5.0, 50.0, 30.0)))

    def run_way(way, job):
        texts = [f"{way if way == UNPRUNED else ''}{question.asked}" for question in job.questions]
        return {"ready": 1.0, "whole": 3.0, "rate": rates[way], "memory": 2**20, "texts": texts}

    monkeypatch.setattr(side_by_side, "run_way", run_way)
    options = ["--model-path", CKPT, "--question-file", pope / "llava_pope_test.jsonl", "--visual_token_num", 16]
    options += ["--image-folder", pope / "val2014", "--images", 2, "--per-image", 3, "--device", "cpu"]
    code, out, _ = call(side_by_side, *options, "--output", tmp_path / "out.json")
    assert code == 0
    rows = {row[0]: row[1:] for row in table_of(out)}
    assert rows["unpruned, transformers"] == ["1.0", "3.0", "10.0 (10.0 to 10.0)", "2.00", "1", "0 of 6"]
    assert rows["this package"] == ["1.0", "3.0", "50.0 (50.0 to 50.0)", "10.00", "1", "6 of 6"]
    found = json.loads((tmp_path / "out.json").read_text())
    assert table(found["ways"], found["questions"]) in out
    assert VLLM not in rows
    code, out, _ = call(side_by_side, *options, "--vllm-python", sys.executable)
    rows = {row[0]: row[1:] for row in table_of(out)}
    assert rows[VLLM] == ["1.0", "3.0", "30.0 (30.0 to 30.0)", "6.00", "1", "6 of 6"]
    assert list(rows)[1:] == [*side_by_side.WAYS, VLLM]
    assert_one_line(call(side_by_side, *options, "--vllm-python", "/nowhere/python"), "/nowhere/python is no program")
    assert_one_line(call(side_by_side, *options, "--rounds", 0), "rounds and max_new_tokens must be at least 1")
    assert_one_line(call(side_by_side, *options, "--important_ratio", 2), "must be a number in [0, 1]")


@pytest.mark.slow
def test_a_process_that_fails_is_named(job):
    with pytest.raises(InputError, match="this package: the process failed"):
        side_by_side.run_way(OURS, replace(job, folder="/nowhere"))


@pytest.mark.slow
def test_a_python_without_vllm_is_named(job, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no vllm here >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(InputError, match="vLLM, with this plugin: the process failed"):
        side_by_side.run_way(VLLM, replace(job, vllm_python=str(python)))
