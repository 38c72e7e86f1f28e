"""This package without lmms-eval: its plugin costs nothing until lmms-eval asks for it."""

import tomllib

from tests.conftest import ROOT
from tests.recipes import run_python


def test_the_entry_point_is_there_without_lmms_eval():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["lmms_eval.models"]["llava"].partition(":")
    code = (
        "import importlib, sys; sys.modules['lmms_eval'] = None; found = getattr(importlib.import_module(sys.argv[1]), "
    )
    code += "sys.argv[2]); print(callable(found), 'torch' in sys.modules)"
    assert run_python("-c", code, module, function).stdout.split() == ["True", "False"]
    assert not any("lmms" in dependency for dependency in project["dependencies"])
