"""Runs of the commands in processes of their own, to be watched and killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT


def command(*args, processes: int = 1, launch: tuple = ()) -> subprocess.Popen:
    """A run of model_vqa_loader in processes of its own."""
    several = ["llava.eval.run.launch", "--multi_gpu", "--num_processes", str(processes)]
    several += [*map(str, launch or ("--num_machines", 1, "--main_process_port", 0)), "-m"]
    return start(*(several if processes > 1 else []), "llava.eval.model_vqa_loader", *args)


def start(*args) -> subprocess.Popen:
    """A run of `python -m` with these arguments."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, args)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, "cwd": ROOT},
        start_new_session=True,
    )


def wait_for(condition, process: subprocess.Popen | None = None) -> None:
    """Wait until `condition()` holds, for a minute at most and while the process runs."""
    for _ in range(1200):
        if condition():
            return
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


def lines_in(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*.jsonl"))


def rank_process(rank: int, answers_file: Path) -> int:
    """The process that is a certain rank of the run that writes a file."""

    def words(file: Path) -> list[str]:
        try:
            return file.read_text().split("\0")
        except OSError:  # it has ended, or is not ours
            return []

    return next(
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if f"RANK={rank}" in words(process / "environ") and str(answers_file) in words(process / "cmdline")
    )


def processes_of(path: Path) -> list[int]:
    """The processes that have a path in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(path) in (process / "cmdline").read_text().split("\0"):
                found.append(int(process.name))
        except OSError:  # it has ended
            pass
    return found
