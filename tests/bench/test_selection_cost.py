"""The benchmark of the selection alone: variants that choose alike, each measured in turns."""

import json
import time
from dataclasses import replace

import torch

from llava.bench import shapes
from llava.pruning import select_visual_tokens
from scripts.benchmarks import importance_cost, selection, selection_cost
from tests.eval.conftest import assert_one_line

SMALL = shapes.Shape(32, 3, 2, 56, 48, 4, 4, 96, 300, 512)


def test_what_takes_long_is_measured_as_long():
    sleeps = {"short": lambda: None, "long": lambda: time.sleep(0.02)}
    times = selection_cost.take_turns(sleeps, torch.device("cpu"), rounds=3, warmup=1)
    assert times["long"]["least"] >= 20
    assert times["short"]["least"] < 20


def test_the_transcription_selects_what_the_selection_selects():
    generator = torch.Generator().manual_seed(0)
    features, attention = torch.randn(3, 90, 32, generator=generator), torch.rand(3, 90, generator=generator)
    for number in (1, 20, 89):
        expected = select_visual_tokens(features, attention, number)
        assert selection_cost.transcription(features.double(), attention, number).equal(expected)


def test_the_cost_of_pruning_itself_is_measured(call, monkeypatch, tmp_path):
    monkeypatch.setitem(shapes.SHAPES, "llava-tiny", SMALL)
    few = ["--device", "cpu", "--patches", 60, "--channels", 16, "--visual_token_num", 10, "--rounds", 2]
    code, out, _ = call(selection, *few, "--tower", "llava-tiny", "--output", tmp_path / "out.json")
    assert code == 0
    assert out.count("times as fast") == 2 * 3 + 2 * 2
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    assert list(found) == [f"{what}, batch {batch}" for what in ("selection", "tower") for batch in (1, 32)]
    code, out, _ = call(selection, *few, "--batch-sizes", 2, "--methods")
    assert code == 0
    methods = [line.split()[0] for line in out.partition("methods, batch 2\n")[2].splitlines()]
    assert methods[0] == "vispruner"
    assert {"divprune", "scope", "cdpruner", "holov", "mmtok", "visionzip", "random"} < set(methods)
    assert_one_line(call(selection, *few, "--rounds", 0), "at least 1")


def test_the_importance_is_measured_beside_its_tower_and_one_call_of_the_attention(call, monkeypatch, tmp_path):
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "fullatt_block_indexes": [1]}
    monkeypatch.setitem(shapes.HOSTS, "Qwen2.5-VL-7B", replace(shapes.HOSTS["Qwen2.5-VL-7B"], vision=vision))
    monkeypatch.setattr(importance_cost, "SIDE", 8)
    few = ["--device", "cpu", "--patches", 20, "--channels", 8, "--visual_token_num", 5, "--rounds", 1, "--warmup", 0]
    towers = ["siglip-tiny", "qwen2.5-vl"]
    code, *_ = call(selection, *few, "--batch-sizes", 2, "--importance", *towers, "--output", tmp_path / "out.json")
    assert code == 0
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    for tower in towers:
        times = found[f"importance, {tower}, batch 2"]
        assert {"tower", "importance", "received", "scaled_dot_product_attention"} < set(times)
        assert all(cell["median"] > 0 for cell in times.values())
