"""The recipes, as a user calls them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from playground.tiny import benchmarks
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


def test_pope_runs_end_to_end_over_two_processes(checkpoints, pope, tmp_path):
    settings = {"CKPT": checkpoints(), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path / "out"}
    done = run_recipe("v1_5/eval/pope.sh", 16, CUDA_VISIBLE_DEVICES="0,1", **settings)
    assert done.returncode == 0, done.stderr
    assert "Category: popular, # samples: 3" in done.stdout
    folder = tmp_path / "out" / "pope" / "answers" / "llava_pope_test" / checkpoints().name / "n_16" / "r_0.5"
    answers = [json.loads(line) for line in (folder / "merge.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in answers] == list(range(6))
    assert json.loads((folder / "merge.score.json").read_text())["categories"].keys() == {"popular", "random"}


def test_another_pruning_method_has_answers_of_its_own(checkpoints, pope, tmp_path):
    settings = {"CKPT": checkpoints(), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path / "out", "CUDA_VISIBLE_DEVICES": ""}
    for method in ("vispruner", "fastv"):
        done = run_recipe("v1_5/eval/pope.sh", 16, PRUNING_METHOD=method, **settings)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "pope" / "answers" / "llava_pope_test"
    assert {path.name for path in folder.iterdir()} == {checkpoints().name, f"{checkpoints().name}-fastv"}
    done = run_recipe("v1_5/eval/pope.sh", 16, PRUNING_METHOD="tome", **settings)
    assert done.returncode == 2
    assert "'tome'" in done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """A few questions of every benchmark, in its own files."""
    folder = tmp_path_factory.mktemp("scenes")
    benchmarks.write(folder, 0.03)
    return folder


SCORED = {
    "gqa": {"accuracy", "structural", "semantic"},
    "sqa": {"accuracy", "image_accuracy"},
    "textvqa": {"accuracy"},
    "pope": {"mean_f1", "categories"},
    "mme": {"perception", "cognition", "categories"},
    "mmbench": {"accuracy"},
    "mmbench_cn": {"accuracy"},
    "seed": {"accuracy"},
}
TO_SUBMIT = {
    "vqav2": "merge.upload.json",
    "gqa": "testdev_balanced_predictions.json",
    "vizwiz": "merge.upload.json",
    "mmbench": "merge.xlsx",
    "mmbench_cn": "merge.xlsx",
    "mmvet": "merge.upload.json",
    "seed": "merge.upload.jsonl",
}


@pytest.mark.parametrize(("family", "checkpoint"), [("v1_5", "v1.5"), ("v1_6", "v1.6")])
def test_every_benchmark_runs_end_to_end(checkpoints, scenes, tmp_path, family, checkpoint):
    folder = checkpoints(checkpoint)
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    shutil.copytree(scenes, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "vizwiz" / "test")
    settings = {"CKPT": folder, "DATA_DIR": tmp_path / "data", "OUT_DIR": tmp_path / "out", "FAMILY": family}
    done = run_recipe("evaluate_all.sh", "8", CUDA_VISIBLE_DEVICES="", BATCH_SIZE=4, **settings)
    assert done.returncode == 0, done.stderr
    assert "skipped, its data is not there: vizwiz" in done.stdout

    def result(name: str, file: str) -> Path:
        (path,) = (tmp_path / "out" / name / "answers").glob(f"*/{folder.name}/n_8/r_0.5/{file}")
        return path

    for name, keys in SCORED.items():
        assert json.loads(result(name, "merge.score.json").read_text()).keys() >= keys
    for name, file in TO_SUBMIT.items():
        if name != "vizwiz":
            assert result(name, file).stat().st_size
    conversation = json.loads(result("pope", "merge.settings.json").read_text())
    assert conversation["conv_mode"] == "vicuna_v1"
    assert conversation["image_grid_pinpoints"] == ("[[672, 672]]" if family == "v1_6" else None)
    table = (tmp_path / "out" / "summary" / "scores.md").read_text()
    assert folder.name in table
    assert (tmp_path / "out" / "summary" / "scores.png").stat().st_size

    shutil.copytree(scenes / "vizwiz" / "test", tmp_path / "data" / "vizwiz" / "test")
    done = run_recipe(f"{family}/eval/vizwiz.sh", 8, CUDA_VISIBLE_DEVICES="0,1", **settings)
    assert done.returncode == 0, done.stderr
    upload = json.loads(result("vizwiz", "merge.upload.json").read_text())
    questions = (scenes / "vizwiz" / "llava_test.jsonl").read_text().splitlines()
    assert [row["image"] for row in upload] == [json.loads(line)["image"] for line in questions]
    assert f"to submit: {result('vizwiz', 'merge.upload.json')}" in done.stdout


@pytest.mark.parametrize(("family", "pinpoints"), [("v1_5", None), ("v1_6", "[[672, 672]]")])
def test_a_recipe_knows_its_family_wherever_it_is_called_from(checkpoints, pope, tmp_path, family, pinpoints):
    settings = {"CKPT": checkpoints("v1.6"), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path, "CUDA_VISIBLE_DEVICES": ""}
    done = run_recipe("pope.sh", 8, cwd=ROOT / "scripts" / family / "eval", **settings)
    assert done.returncode == 0, done.stderr
    (recorded,) = tmp_path.glob("pope/answers/*/*/n_8/r_0.5/merge.settings.json")
    assert json.loads(recorded.read_text())["image_grid_pinpoints"] == pinpoints


def test_a_recipe_does_not_go_on_from_answers_of_other_settings(checkpoints, pope, tmp_path):
    settings = {"CKPT": checkpoints(), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path, "CUDA_VISIBLE_DEVICES": ""}
    assert run_recipe("v1_5/eval/pope.sh", 16, **settings).returncode == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "clip-vit-tiny-random").symlink_to(checkpoints().parent / "clip-vit-tiny-random")
    other = shutil.copytree(checkpoints(), tmp_path / "other" / checkpoints().name)
    config = json.loads((other / "config.json").read_text()) | {"image_aspect_ratio": "square"}
    (other / "config.json").write_text(json.dumps(config))
    settings["CKPT"] = other
    refused = run_recipe("v1_5/eval/pope.sh", 16, **settings)
    assert refused.returncode == 2
    assert f"made with other settings: checkpoint '{other.name} " in refused.stderr
    assert run_recipe("v1_5/eval/pope.sh", 16, OVERWRITE=1, **settings).returncode == 0


@pytest.mark.parametrize(
    ("args", "change", "named"),
    [
        ((), {}, "usage: bash"),
        (("many",), {}, "got 'many'"),
        ((16, 2), {}, "got '2'"),
        ((16,), {"DATA_DIR": "/nowhere"}, "/nowhere/pope/llava_pope_test.jsonl is missing: see EVAL.md"),
        ((16,), {"CKPT": "/nowhere"}, "no such checkpoint folder: /nowhere"),
        ((16,), {"NUM_PROCESSES": "two"}, "NUM_PROCESSES must be a number, got 'two'"),
        ((16,), {"NUM_MACHINES": "2"}, "several machines need MAIN_PROCESS_IP and MAIN_PROCESS_PORT"),
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
