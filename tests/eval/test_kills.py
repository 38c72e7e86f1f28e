"""Runs that are killed: nothing outlives them, and the same command goes on at once."""

import os
import signal
import subprocess
import sys
import time
from itertools import product

import pytest
import torch.distributed as dist

from llava.eval import model_vqa_loader
from llava.eval.run.processes import Heartbeat
from tests.conftest import ROOT
from tests.eval.conftest import texts
from tests.eval.runs import command, lines_in, processes_of, rank_process, wait_for

SLOW = ("--max_new_tokens", 48, "--batch-size", 1)
KILLS = list(product((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP), (0, 1, 2), (1, 2)))


@pytest.mark.parametrize(("sign", "workers", "ranks"), KILLS)
def test_what_was_killed_goes_on_at_once(call, caplog, ask, tmp_path, sign, workers, ranks):
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


@pytest.mark.parametrize("killed", ["command", "launcher"])
def test_what_a_killed_benchmark_has_started_ends_with_it(checkpoints, pope, tmp_path, killed):
    options = ("--model-path", checkpoints(), "--device", "cpu", "--data-dir", tmp_path, "--out-dir", tmp_path / "out")
    options += ("--num-processes", 2, "--max_new_tokens", 400, "--batch-size", 1)
    arguments = [sys.executable, "-m", "llava.eval", "pope", *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(arguments, **pipes, env=environment, cwd=ROOT)

    first, out = start(), tmp_path / "out"
    wait_for(lambda: next(out.rglob("[01].jsonl"), None) is not None, first)
    launcher = min(set(processes_of(out)) - {first.pid})
    os.kill(first.pid if killed == "command" else launcher, signal.SIGKILL)
    _, err = first.communicate(timeout=60)
    if killed == "launcher":
        assert "error: the launcher was ended by signal 9; what has been answered is kept" in err
    second = start()
    said, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "Mean F1" in said
    assert processes_of(out) == []


def test_a_killed_rank_is_told_by_the_others(ask, tmp_path):
    file = tmp_path / "merge.jsonl"
    run = command(*ask, *SLOW, "--answers-file", file, processes=2)
    wait_for(lambda: lines_in(file.with_suffix(".parts")) >= 2, run)
    os.kill(rank_process(0, file), signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "error: rank 0 was ended by signal 15" in err
    assert processes_of(file) == []


def heartbeats(ranks: list[int], ended: list) -> list[Heartbeat]:
    store = dist.HashStore()
    return [Heartbeat(store, rank, 2, silence=0.5, beat=0.05, end=lambda code: ended.append(code)) for rank in ranks]


def test_a_peer_that_is_alive_may_take_any_time():
    ended = []
    running = heartbeats([0, 1], ended)
    time.sleep(1.5)
    for heartbeat in running:
        heartbeat.stop()
    assert ended == []


@pytest.mark.parametrize("has_come", [True, False])
def test_a_peer_of_which_nothing_is_heard_is_named(capfd, has_come):
    ended = []
    running = heartbeats([0, 1] if has_come else [0], ended)
    time.sleep(0.2)
    running[-1].stop() if has_come else None
    time.sleep(1.5)
    assert ended == [1]
    assert (
        "error: nothing has been heard of rank 1 for 0.5 seconds; what has been answered is kept"
        in capfd.readouterr().err
    )
