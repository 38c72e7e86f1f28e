"""scripts/lmms_eval.sh as users run it: processes that share documents, a kill, and going on."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval is not installed here: see scripts/test_lmms_eval.sh")

from tests.eval.conftest import table_of
from tests.integrations.lmms_eval.conftest import ROOT


def start(out_dir, *options) -> subprocess.Popen:
    command = ["bash", ROOT / "scripts" / "lmms_eval.sh", "scenes_exists scenes_ocr", "--visual_token_num", "16"]
    command += ["--limit", "30", "--device", "cpu", *options]
    environment = os.environ | {"PYTHON": sys.executable, "OUT_DIR": str(out_dir)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_share_and_a_killed_run_goes_on(tmp_path):
    run = start(tmp_path, "--num-processes", "2")
    deadline = time.monotonic() + 500
    while (
        not (begun := list(tmp_path.glob("lmms_scenes_ocr/**/output.txt")))
        or "Running generate" not in begun[0].read_text()
    ):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.2)
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) >= 3  # the launcher and two processes
    run.send_signal(signal.SIGKILL)
    run.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    (done,) = tmp_path.glob("lmms_scenes_exists/**/log/*/*_results.json")
    before = done.read_bytes()
    assert not list(tmp_path.glob("lmms_scenes_ocr/**/log/*"))
    run = start(tmp_path)
    out, err = run.communicate(timeout=500)
    assert run.returncode == 0, err
    assert "--- 1 of 1: scenes_ocr, visual_token_num=16 ---" in out
    assert done.read_bytes() == before
    header, row = table_of(out)
    assert header[3:] == ["OCR scenes, lmms-eval", "Existence scenes, lmms-eval"]
    assert all("[" in cell for cell in row[3:])
