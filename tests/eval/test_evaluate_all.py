"""All benchmarks by one command: what it refuses, which recipes it takes, how it ends."""

import pytest

from tests.recipes import run_recipe

RECIPES = ["gqa", "mmbench", "mmbench_cn", "mme", "mmvet", "pope", "seed", "sqa", "textvqa", "vizwiz", "vqav2"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "usage: bash"),
        (("",), "usage: bash"),
        (("64", "0.5", "more"), "usage: bash"),
        (("64 many",), "positive integers, got 'many'"),
        (("128 0",), "positive integers, got '0'"),
        (("-64",), "positive integers, got '-64'"),
        (("128,64",), "positive integers, got '128,64'"),
        (("64", "1.5"), "RATIO must be in [0, 1], got '1.5'"),
        (("64", "half"), "RATIO must be in [0, 1], got 'half'"),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_runs(tmp_path, args, says):
    refused(run_recipe("evaluate_all.sh", *args, OUT_DIR=tmp_path / "out"), says)


def test_an_unknown_family_is_one_line(tmp_path):
    refused(run_recipe("evaluate_all.sh", "64", FAMILY="v2", OUT_DIR=tmp_path / "out"), "FAMILY is v1_5 or v1_6")


def refused(done, says: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("checkpoint", "forced", "family"),
    [
        ("liuhaotian/llava-v1.5-7b", "", "v1_5"),
        ("liuhaotian/llava-v1.6-vicuna-7b", "", "v1_6"),
        ("checkpoints/LLaVA-NeXT-mine/", "", "v1_6"),
        ("llava-1.6-runs/mine", "", "v1_5"),
        ("liuhaotian/llava-v1.6-vicuna-7b", "v1_5", "v1_5"),
    ],
)
def test_the_checkpoint_s_name_decides_the_family_unless_the_environment_does(tmp_path, checkpoint, forced, family):
    settings = {"CKPT": checkpoint, "FAMILY": forced, "DATA_DIR": tmp_path / "nowhere", "OUT_DIR": tmp_path / "out"}
    done = run_recipe("evaluate_all.sh", "64 32", **settings)
    assert f"{family}: 11 recipes at 64 32 visual tokens" in done.stdout.splitlines()[0]
    # Nothing is there, so that all are skipped, once each, and there is no table.
    skipped = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("skipped")]
    assert sorted(skipped) == RECIPES
    assert done.returncode == 2
    assert f"no scores or files for submission below {tmp_path / 'out'}" in done.stderr


def test_what_has_data_is_run_at_each_number_of_tokens_and_put_into_the_table(checkpoints, pope, tmp_path):
    settings = {"CKPT": checkpoints(), "DATA_DIR": pope.parent, "OUT_DIR": tmp_path / "out"}
    done = run_recipe("evaluate_all.sh", "16 8", "0.25", CUDA_VISIBLE_DEVICES="", **settings)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[0][1:5] == ["checkpoint", "tokens", "ratio", "POPE F1"]
    assert [row[1:4] for row in rows[2:]] == [[checkpoints().name, tokens, "0.25"] for tokens in ("16", "8")]
    assert "skipped, its data is not there: gqa" in done.stdout
    assert (tmp_path / "out" / "summary" / "scores.csv").exists()


def test_a_recipe_that_fails_does_not_stop_the_next_and_is_named_at_the_end(pope, tmp_path):
    settings = {"CKPT": "/nowhere", "DATA_DIR": pope.parent, "OUT_DIR": tmp_path / "out"}
    done = run_recipe("evaluate_all.sh", "16 8", CUDA_VISIBLE_DEVICES="", **settings)
    assert done.returncode == 2
    assert "skipped, its data is not there: vqav2" in done.stdout
    assert done.stderr.splitlines()[-2:] == [
        f"error: failed: pope at {tokens} visual tokens (exit code 2)" for tokens in (16, 8)
    ]
