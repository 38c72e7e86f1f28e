"""The recipes, as a user calls them."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def run_recipe(recipe: str, *args, **environment) -> subprocess.CompletedProcess:
    """Run a recipe of scripts/ with this Python."""
    return subprocess.run(
        ["bash", ROOT / "scripts" / recipe, *map(str, args)],
        env=os.environ
        | {"PYTHON": sys.executable, "HF_HUB_OFFLINE": "1"}
        | {k: str(v) for k, v in environment.items()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_pope_runs_end_to_end_over_two_processes(checkpoints, pope, tmp_path):
    settings = {"CKPT": checkpoints(), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path / "out"}
    done = run_recipe("v1_5/eval/pope.sh", 16, CUDA_VISIBLE_DEVICES="0,1", **settings)
    assert done.returncode == 0, done.stderr
    assert "Category: popular, # samples: 3" in done.stdout
    folder = tmp_path / "out" / "pope" / "answers" / "llava_pope_test" / checkpoints().name / "n_16" / "r_0.5"
    answers = [json.loads(line) for line in (folder / "merge.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in answers] == list(range(6))
    assert json.loads((folder / "merge.score.json").read_text())["categories"].keys() == {"popular", "random"}


@pytest.mark.parametrize(
    ("args", "change", "named"),
    [
        ((), {}, "usage: bash"),
        (("many",), {}, "got 'many'"),
        ((16, 2), {}, "got '2'"),
        ((16,), {"DATA_DIR": "/nowhere"}, "/nowhere/pope/llava_pope_test.jsonl is missing: see EVAL.md"),
        ((16,), {"CKPT": "/nowhere"}, "no such checkpoint folder: /nowhere"),
    ],
)
def test_pope_says_what_is_wrong_and_leaves_nothing(checkpoints, pope, tmp_path, args, change, named):
    settings = {"CKPT": checkpoints(), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path / "out"} | change
    done = run_recipe("v1_5/eval/pope.sh", *args, CUDA_VISIBLE_DEVICES="", **settings)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
