"""This package without vLLM: its plugin costs nothing until vLLM asks for it, and checkpoints can be prepared."""

import tomllib

import pytest

from tests.conftest import ROOT
from tests.recipes import run_python


def test_the_entry_point_is_there_without_vllm():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["vllm.general_plugins"]["llava"].partition(":")
    code = "import importlib, sys; sys.modules['vllm'] = None; found = getattr(importlib.import_module(sys.argv[1]), "
    code += "sys.argv[2]); print(callable(found), 'torch' in sys.modules)"
    assert run_python("-c", code, module, function).stdout.split() == ["True", "False"]
    assert not any("vllm" in dependency for dependency in project["dependencies"])


@pytest.mark.slow
def test_preparing_needs_no_vllm(checkpoints, tmp_path):
    code = "import sys; sys.modules['vllm'] = None; from llava.integrations.vllm.folder import prepare; "
    code += "from pathlib import Path; prepare(sys.argv[1], Path(sys.argv[2]))"
    done = run_python("-c", code, checkpoints(), tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "config.json").exists()
