"""Recipes of scripts/ and commands, called as a user calls them, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.eval.conftest import assert_one_line


def run_recipe(recipe: str, *args, cwd: Path | None = None, **environment) -> subprocess.CompletedProcess:
    """Run a recipe of scripts/ with this Python; with `cwd` as a file name in that folder."""
    return subprocess.run(
        ["bash", ROOT / "scripts" / recipe if cwd is None else recipe, *map(str, args)],
        cwd=cwd,
        env=os.environ
        | {"PYTHON": sys.executable, "HF_HUB_OFFLINE": "1"}
        | {k: str(v) for k, v in environment.items()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_python(*args, **environment: str) -> subprocess.CompletedProcess:
    """Run this Python with these arguments, on this tree."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)


def assert_refused(done: subprocess.CompletedProcess, named: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that has `named` in it."""
    assert_one_line((done.returncode, done.stdout, done.stderr), named)
