"""The script that measures what rounding moves: what it keeps and scores without noise is what the evaluation does."""

import json

import pytest
import torch

from llava.eval.benchmarks import find_benchmark
from llava.eval.evaluation import evaluate
from llava.pruning import Settings, Views
from playground.tiny import benchmarks
from scripts.benchmarks import rounding_spread as script
from tests.conftest import ROOT, load
from tests.eval.conftest import assert_one_line

CKPT = ROOT / "playground" / "checkpoints" / "llava-tiny"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A part of the bundled questions, in the benchmarks' own files."""
    folder = tmp_path_factory.mktemp("scenes")
    benchmarks.write(folder, 0.2)
    return folder


def test_without_noise_it_keeps_and_scores_what_the_evaluation_does(scenes):
    loaded = load(CKPT)
    pruning = Settings(16, pruning_method="mmtok")
    with torch.inference_mode():
        asked = script.Asked.from_benchmark(loaded, find_benchmark("pope"), scenes)
        kept = asked.kept(pruning, torch.float32, 1e-6, None)
        score = asked.score(kept)
    assert {len(patches) for patches in kept} == {16}
    assert score == evaluate("pope", loaded, data_dir=scenes, visual_token_num=16, pruning_method="mmtok").score


def test_noise_and_rounding_change_the_features_by_as_much():
    views = Views(torch.randn(1, 9, 4), importance=torch.rand(1, 9))
    same, noisy, half = (
        script.perturbed(views, dtype, 1e-3, seed, lambda features: features)
        for dtype, seed in ((torch.float32, None), (torch.float32, 0), (torch.float16, None))
    )
    assert torch.equal(same.features, views.features)
    assert torch.equal(half.features, views.features.half().float())
    change = (noisy.features / views.features - 1).abs()
    assert 1e-4 < change.mean() < 2e-3
    assert not torch.equal(noisy.importance, views.importance)
    assert script.overlap([(1, 2), (3, 4)], [(1, 2), (4, 5)]) == 0.75


def test_the_command_writes_rows_table_and_plot(call, scenes, tmp_path):
    pytest.importorskip("matplotlib.backends.backend_agg")
    options = [
        "--model-path",
        CKPT,
        "--data-dir",
        scenes,
        "--benchmarks",
        "textvqa",
        "--visual_token_num",
        8,
        "--seeds",
        1,
    ]
    code, out, _ = call(script, *options, "--pruning_method", "fastervlm", "--output", tmp_path)
    assert code == 0
    rows = json.loads((tmp_path / "rounding.json").read_text())["TextVQA"]
    assert [row["dtype"] for row in rows] == ["float32", "float16", "bfloat16"]
    assert rows[0]["with_float32"] == 1
    assert all(0.9 < row["overlap"] <= 1 and len(row["scores"]) == 1 for row in rows)
    assert (tmp_path / "rounding.md").read_text().strip() in out
    assert (tmp_path / "rounding.png").stat().st_size > 10_000
    assert_one_line(call(script, *options, "--pruning_method", "visionzip", "--output", tmp_path), "visionzip compares")
    assert_one_line(call(script, *options, "--seeds", 0, "--output", tmp_path), "seeds must be at least 1")
