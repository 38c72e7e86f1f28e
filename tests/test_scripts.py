"""The recipes: what they refuse by themselves, what they call, and two of them from end to end."""

import json
import sys

import pytest

from tests.conftest import ROOT
from tests.recipes import assert_refused, run_recipe

pytestmark = pytest.mark.slow
RECIPES = ["gqa", "mmbench", "mmbench_cn", "mme", "mmvet", "pope", "seed", "sqa", "textvqa", "vizwiz", "vqav2"]


@pytest.fixture
def called(tmp_path):
    """Run a recipe with a Python that prints its arguments instead of running a module; returns them."""
    python = tmp_path / "python"
    python.write_text(f'#!/usr/bin/env bash\n[ "$1" != -c ] || exec {sys.executable} "$@"\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)

    def run(recipe: str, *args, **settings) -> list[str]:
        done = run_recipe(recipe, *args, **settings, PYTHON=python)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def options_of(arguments: list[str]) -> dict[str, list[str]]:
    """The values of each option."""
    options, values = {}, []
    for argument in arguments:
        if argument.startswith("--"):
            values = options[argument] = []
        else:
            values.append(argument)
    return options


@pytest.mark.parametrize("family", ["v1_5", "v1_6"])
def test_every_benchmark_has_a_recipe_that_calls_it(called, family):
    assert sorted(path.stem for path in (ROOT / "scripts" / family / "eval").glob("*.sh")) == RECIPES
    for name in RECIPES:
        arguments = called(f"{family}/eval/{name}.sh", 64, 0.25)
        assert arguments[:3] == ["-m", "llava.eval", name]
        options = options_of(arguments[3:])
        assert (options["--visual_token_num"], options["--important_ratio"]) == (["64"], ["0.25"])
        assert options.get("--image_grid_pinpoints") == (["[[672, 672]]"] if family == "v1_6" else None)


def test_settings_come_from_the_environment(called):
    settings = {
        "CKPT": "x/llava",
        "DATA_DIR": "a b",
        "OUT_DIR": "out",
        "PRUNING_METHOD": "fastv",
        "BUDGET_PER": "image",
        "PRUNING_SEED": "3",
        "POSITIONS": "after",
        "BATCH_SIZE": "4",
        "NUM_PROCESSES": "2",
        "NUM_MACHINES": "2",
        "MACHINE_RANK": "1",
        "MAIN_PROCESS_IP": "10.0.0.1",
        "MAIN_PROCESS_PORT": "29500",
    }
    options = options_of(called("v1_5/eval/pope.sh", 16, **settings, OVERWRITE=1, SKIP_MISSING=1))
    renamed = {"CKPT": "--model-path", "PRUNING_METHOD": "--pruning_method", "BUDGET_PER": "--budget_per"}
    renamed["PRUNING_SEED"] = "--pruning_seed"
    for name, value in settings.items():
        assert options[renamed.get(name, f"--{name.lower().replace('_', '-')}")] == [value]
    assert options["--overwrite"] == options["--skip-missing"] == []


def test_a_recipe_knows_its_family_wherever_it_is_called_from(called):
    for family in ("v1_5", "v1_6"):
        options = options_of(called("pope.sh", 8, cwd=ROOT / "scripts" / family / "eval"))
        assert ("--image_grid_pinpoints" in options) == (family == "v1_6")


def test_suites_are_one_command(called):
    arguments = called("evaluate_all.sh", "64\n 32", 0.25, BENCHMARKS="pope gqa", PRUNING_METHOD="divprune")
    assert arguments[:4] == ["-m", "llava.eval", "pope", "gqa"]
    options = options_of(arguments)
    assert (options["--visual_token_num"], options["--important_ratio"]) == (["64", "32"], ["0.25"])
    assert options["--pruning_method"] == ["divprune"]
    arguments = called("compare_methods.sh", "64 32", "vispruner", "a b/mine.py")
    assert arguments[:3] == ["-m", "llava.eval", "all"]
    options = options_of(arguments)
    assert options["--pruning_method"] == ["none", "vispruner", "a b/mine.py"]
    assert options["--visual_token_num"] == ["64", "32"]


@pytest.mark.parametrize(
    ("checkpoint", "forced", "family"),
    [
        ("liuhaotian/llava-v1.5-7b", "", "v1_5"),
        ("liuhaotian/llava-v1.6-vicuna-7b", "", "v1_6"),
        ("checkpoints/LLaVA-NeXT-mine/", "", "v1_6"),
        ("llava-1.6-runs/mine", "", "v1_5"),
        ("liuhaotian/llava-v1.6-vicuna-7b", "v1_5", "v1_5"),
        ("llava", "v1_6", "v1_6"),
    ],
)
def test_the_checkpoint_s_name_decides_the_family_unless_the_environment_does(called, checkpoint, forced, family):
    for recipe, more in (("evaluate_all.sh", ()), ("compare_methods.sh", ("random",))):
        options = options_of(called(recipe, "64", *more, CKPT=checkpoint, FAMILY=forced))
        assert ("--image_grid_pinpoints" in options) == (family == "v1_6")


@pytest.mark.parametrize(
    ("recipe", "args", "environment", "named"),
    [
        ("evaluate_all.sh", (), {}, "usage: bash"),
        ("evaluate_all.sh", ("",), {}, "usage: bash"),
        ("evaluate_all.sh", ("64", "0.5", "more"), {}, "usage: bash"),
        ("evaluate_all.sh", ("64",), {"FAMILY": "v2"}, "FAMILY is v1_5 or v1_6"),
        ("evaluate_all.sh", ("64",), {"BENCHMARKS": "pope tome"}, "there is no benchmark 'tome'"),
        ("compare_methods.sh", ("32",), {}, "usage: bash"),
        ("compare_methods.sh", ("", "random"), {}, "usage: bash"),
        ("compare_methods.sh", ("32", "random"), {"FAMILY": "v2"}, "FAMILY is v1_5 or v1_6"),
        ("compare_methods.sh", ("32", "random"), {"BENCHMARKS": "pope tome"}, "there is no benchmark 'tome'"),
        ("v1_5/eval/pope.sh", (), {}, "usage: bash"),
        ("v1_5/eval/pope.sh", ("many",), {}, "--visual_token_num"),
        ("v1_5/eval/pope.sh", (16,), {"DATA_DIR": "/nowhere"}, "/nowhere/pope/llava_pope_test.jsonl is missing"),
        ("v1_5/eval/pope.sh", (16,), {"NUM_PROCESSES": "two"}, "NUM_PROCESSES"),
        ("v1_5/eval/pope.sh", (16,), {"NUM_MACHINES": "2"}, "MAIN_PROCESS_IP and MAIN_PROCESS_PORT"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_left(tmp_path, recipe, args, environment, named):
    settings = {"OUT_DIR": tmp_path / "out", "CUDA_VISIBLE_DEVICES": ""} | environment
    assert_refused(run_recipe(recipe, *args, **settings), named)
    assert not (tmp_path / "out").exists()


def test_pope_runs_end_to_end_over_two_processes(checkpoints, pope, tmp_path):
    settings = {"CKPT": checkpoints(), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path / "out"}
    done = run_recipe("v1_5/eval/pope.sh", 16, CUDA_VISIBLE_DEVICES="0,1", **settings)
    assert done.returncode == 0, done.stderr
    assert "Category: popular, # samples: 3" in done.stdout
    folder = tmp_path / "out" / "pope" / "answers" / "llava_pope_test" / checkpoints().name / "n_16" / "r_0.5"
    answers = [json.loads(line) for line in (folder / "merge.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in answers] == list(range(6))
    assert json.loads((folder / "merge.score.json").read_text())["categories"].keys() == {"popular", "random"}


def test_all_that_has_data_is_run_over_two_processes_and_put_into_the_table(checkpoints, pope, tmp_path):
    settings = {"CKPT": checkpoints(), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path / "out", "NUM_PROCESSES": 2}
    done = run_recipe("evaluate_all.sh", "16 8", "0.25", CUDA_VISIBLE_DEVICES="", **settings)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[0][1:5] == ["checkpoint", "tokens", "ratio", "POPE F1"]
    assert [row[1:4] for row in rows[2:]] == [[checkpoints().name, tokens, "0.25"] for tokens in ("16", "8")]
    assert "skipped, its data is not there: gqa" in done.stdout
    assert (tmp_path / "out" / "summary" / "scores.csv").exists()
    assert not [path for path in (tmp_path / "out").rglob("merge.parts")]
