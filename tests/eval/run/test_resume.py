"""Answering that is interrupted: runs that are killed, in one process or many, and who may go on from their answers."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from llava.eval import model_vqa_loader
from tests.conftest import ROOT
from tests.eval.conftest import assert_one_line, texts
from tests.eval.run.runs import command, lines_in, rank_process, wait_for


def test_changed_options_and_files_are_told_from_moved_ones(call, ask, tmp_path):
    options = [*ask, "--answers-file", tmp_path / "a.jsonl"]
    assert call(model_vqa_loader, *options)[0] == 0
    answers = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "q.jsonl").rename(tmp_path / "moved.jsonl")
    moved = [tmp_path / "moved.jsonl" if option == tmp_path / "q.jsonl" else option for option in options]
    assert call(model_vqa_loader, *moved, "--batch-size", 2)[0] == 0
    for change, named in (
        (["--visual_token_num", 8], "visual_token_num 16 is now 8"),
        (["--important_ratio", 1], "important_ratio 0.5 is now 1.0"),
        (["--conv-mode", "vicuna_v1"], "conv_mode 'llava_v1' is now 'vicuna_v1'"),
    ):
        assert_one_line(call(model_vqa_loader, *moved, *change), named)
    lines = (tmp_path / "moved.jsonl").read_text()
    (tmp_path / "moved.jsonl").write_text(lines.replace("number 7", "number seven"))
    assert_one_line(call(model_vqa_loader, *moved), "question_file")
    assert (tmp_path / "a.jsonl").read_bytes() == answers


@pytest.fixture
def whole(call, ask, tmp_path):
    """Options of a run slow enough to be killed on the way, its answer file, and what it answers if it is not."""
    ask, file = [*ask, "--max_new_tokens", 48], tmp_path / "out" / "merge.jsonl"
    assert call(model_vqa_loader, *ask, "--answers-file", tmp_path / "whole.jsonl")[0] == 0
    return [*ask, "--answers-file", file, "--batch-size", 1], file, texts(tmp_path / "whole.jsonl")


@pytest.mark.slow
def test_a_killed_run_goes_on_with_another_number_of_processes(whole):
    options, file, expected = whole
    first = command(*options)
    wait_for(lambda: lines_in(file.with_suffix(".parts")) >= 2, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    kept = lines_in(file.with_suffix(".parts"))
    assert 2 <= kept < 24

    second = command(*options, processes=2)
    wait_for(lambda: lines_in(file.with_suffix(".parts")) >= kept + 4, second)
    os.kill(rank_process(1, file), signal.SIGKILL)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 1
    assert "error: rank 1 was ended by signal 9; what has been answered is kept" in err
    assert "Traceback" not in err
    kept = lines_in(file.with_suffix(".parts"))
    assert kept < 24
    assert not file.exists()

    third = command(*options, processes=2)
    _, err = third.communicate(timeout=120)
    assert third.returncode == 0, err
    assert f"{kept} of 24 questions are answered already" in err
    assert f"{24 - kept}/{24 - kept}" in err  # one bar for all
    assert texts(file) == expected


def two_machines(*options) -> list[subprocess.Popen]:
    """One process on each of two machines, both of which are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    network = ("--num_machines", 2, "--main_process_ip", "127.0.0.1", "--main_process_port", port, "--machine_rank")
    return [command(*options, processes=2, launch=(*network, rank)) for rank in (0, 1)]


@pytest.mark.slow
def test_two_machines_share_the_questions_and_end_together(whole):
    options, file, expected = whole
    runs = two_machines(*options)
    wait_for(lambda: len(list(file.with_suffix(".parts").glob("1.jsonl"))) == 1, runs[1])
    os.kill(rank_process(1, file), signal.SIGKILL)
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [1, 1]
    assert "rank 1 was ended by signal 9" in errors[1]
    assert "another process of this run ended" in errors[0]
    assert not file.exists()

    for run in two_machines(*options):
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
    assert texts(file) == expected


@pytest.mark.slow
def test_one_process_may_be_launched_too(call, ask, tmp_path):
    options = [*ask, "--answers-file", tmp_path / "a.jsonl", "--batch-size", 0]
    launch = [sys.executable, "-m", "llava.eval.run.launch", "--cpu", "-m", model_vqa_loader.__name__]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [*launch, *map(str, options)],
        **{"capture_output": True, "text": True, "check": False, "cwd": ROOT, "env": environment},
    )
    assert_one_line((done.returncode, done.stdout, done.stderr), "batch-size must be at least 1, got 0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "length", "named"),
    [
        ("images/5.png", 0, "5.png"),
        ("images/5.png", -2000, "5.png"),  # its header is good: it is found while the model is loaded
        ("out/a.jsonl", 0, "not the settings"),
    ],
)
def test_bad_input_is_told_once_whatever_the_number_of_processes(ask, tmp_path, bad, length, named):
    file = tmp_path / bad
    if file.exists():
        file.write_bytes(file.read_bytes()[:length])
    else:
        file.parent.mkdir()
        file.touch()
    run = command(*ask, "--answers-file", tmp_path / "out" / "a.jsonl", processes=2)
    out, err = run.communicate(timeout=120)
    assert_one_line((run.returncode, out, err), named)
    assert (tmp_path / "out").exists() == (file.parent.name == "out")


@pytest.mark.slow
def test_a_port_that_does_not_exist_is_one_line(ask, tmp_path):
    network = ("--num_machines", 1, "--main_process_port", 99999)
    run = command(*ask, "--answers-file", tmp_path / "a.jsonl", processes=2, launch=network)
    out, err = run.communicate(timeout=120)
    assert_one_line((run.returncode, out, err), "port must be 0-65535")
