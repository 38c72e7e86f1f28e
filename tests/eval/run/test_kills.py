"""Runs that are killed: nothing outlives them, and the same command goes on at once."""

import os
import signal

import pytest

from llava.eval import model_vqa_loader
from tests.eval.conftest import texts
from tests.eval.run.runs import command, lines_in, processes_of, rank_process, start, wait_for

SLOW = ("--max_new_tokens", 48, "--batch-size", 1)
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("sign", "workers", "ranks"),
    [
        (signal.SIGKILL, 2, 1),
        (signal.SIGTERM, 0, 1),
        (signal.SIGKILL, 1, 2),
        (signal.SIGINT, 2, 2),
        (signal.SIGHUP, 0, 2),
        (signal.SIGTERM, 1, 2),
    ],
)
def test_what_was_killed_goes_on_at_once(call, caplog, ask, tmp_path, sign, workers, ranks):
    """With several processes the signal is for their launcher."""
    file = tmp_path / "out" / "merge.jsonl"
    options = [*ask, *SLOW, "--num-workers", workers, "--answers-file", file]
    first = command(*options, processes=ranks)
    wait_for(lambda: lines_in(file.with_suffix(".parts")) >= 2, first)
    first.send_signal(sign)
    first.wait(timeout=60)
    assert call(model_vqa_loader, *options)[0] == 0
    assert "of 24 questions are answered already" in caplog.text
    _, err = first.communicate(timeout=60)
    assert processes_of(file) == []
    assert len(texts(file)) == 24
    if sign != signal.SIGINT:  # of which the libraries may tell
        assert "Traceback" not in err


@pytest.mark.parametrize("killed", ["command", "launcher", "first rank"])
def test_what_a_killed_benchmark_has_started_ends_with_it(checkpoints, pope, tmp_path, killed):
    options = ("--model-path", checkpoints(), "--device", "cpu", "--data-dir", tmp_path, "--out-dir", tmp_path / "out")
    options += ("--max_new_tokens", 200, "--batch-size", 1, "--visual_token_num", 16, 8)
    first, out = start("llava.eval", "pope", *options, "--num-processes", 2), tmp_path / "out"
    wait_for(lambda: next((file for file in out.rglob("[01].jsonl") if file.stat().st_size), None), first)
    launcher = min(set(processes_of(out)) - {first.pid})
    victims = {"command": first.pid, "launcher": launcher, "first rank": rank_process(0, out)}
    os.kill(victims[killed], signal.SIGKILL)
    _, err = first.communicate(timeout=60)
    named = {"launcher": "the launcher was ended by signal 9", "first rank": "rank 0 was ended by signal 9"}
    if killed in named:
        assert f"error: {named[killed]}; what has been answered is kept" in err
    second = start("llava.eval", "pope", *options, "--num-processes", 1)
    said, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert said.count("Mean F1") == 2
    assert processes_of(out) == []
