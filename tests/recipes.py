"""The recipes of scripts/, called as a user calls them, and this Python in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


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
    """Run this Python in the root of the repository."""
    command, environment = [sys.executable, *map(str, args)], os.environ | environment
    options = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    return subprocess.run(command, cwd=ROOT, env=environment, **options)


def assert_refused(done: subprocess.CompletedProcess, named: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that has `named` in it."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert named in done.stderr
