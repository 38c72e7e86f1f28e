"""Methods compared by one command: what it refuses, and its table."""

import re

import pytest

from tests.eval.test_evaluate_all import refused
from tests.recipes import run_recipe

MINE = """
def select(views, settings):
    return views.keep(views.importance.argsort(dim=1)[:, : settings.visual_token_num])
"""


@pytest.mark.parametrize(
    ("args", "environment", "says"),
    [
        ((), {}, "usage: bash"),
        (("32",), {}, "usage: bash"),
        (("", "random"), {}, "usage: bash"),
        (("0", "random"), {}, "positive integers, got '0'"),
        (("32", "random"), {"BENCHMARKS": "pope tome"}, "there is no benchmark 'tome'"),
        (("32", "random"), {"FAMILY": "v2"}, "FAMILY is v1_5 or v1_6"),
        (("32", "random", "tome"), {}, "got 'tome'"),
        (("32", "/nowhere/mine.py"), {}, "there is no file /nowhere/mine.py"),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_runs(tmp_path, args, environment, says):
    refused(run_recipe("compare_methods.sh", *args, OUT_DIR=tmp_path / "out", **environment), says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("one", "other"), [("a/mine.py", "b/mine.py"), ("a/random.py", "vispruner")])
def test_methods_that_would_share_a_folder_are_refused(tmp_path, one, other):
    for name in {one, other} - {"vispruner"}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(MINE)
    methods = [name if name == "vispruner" else tmp_path / name for name in (one, other)]
    done = run_recipe("compare_methods.sh", "8", *methods, OUT_DIR=tmp_path / "out")
    refused(done, "another method is called")


def test_each_method_is_a_row_at_each_budget_below_the_unpruned_model(checkpoints, pope, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    settings = {"CKPT": checkpoints(), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path / "out", "CUDA_VISIBLE_DEVICES": ""}
    done = run_recipe("compare_methods.sh", "16 8", "none", "vispruner", tmp_path / "mine.py", **settings)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[0][1:5] == ["method", "tokens", "ratio", "POPE F1"]
    assert [row[1:3] for row in rows[2:]] == [
        ["none", "144"],
        ["vispruner", "16"],
        ["vispruner", "8"],
        ["mine", "16"],
        ["mine", "8"],
    ]
    assert "skipped, its data is not there: gqa" in done.stdout
    written = {path.name for path in (tmp_path / "out" / "summary" / "methods").iterdir()}
    assert written >= {"scores.md", "scores.csv", "differences.md", "differences.csv"}
    assert all(row[4].partition("]")[2].strip() in "↑↓≈" for row in rows[2:] if row[1] == "mine")
    assert all(re.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]( .)?", row[4]) for row in rows[2:])
    answered = {path.name for path in (tmp_path / "out" / "pope" / "answers" / "llava_pope_test").iterdir()}
    name = checkpoints().name
    assert answered == {name, f"{name}-none", f"{name}-mine"}
