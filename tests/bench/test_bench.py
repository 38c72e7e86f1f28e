"""The bench: every stage of every setting, arithmetic that a counter agrees with, and a report that can be read."""

import json
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import llava.bench.__main__ as bench
from llava.bench import random_model, shapes
from llava.bench.measure import TIMES, make_job, measure
from llava.bench.report import table
from llava.model.flops import Decoder
from llava.pruning import Settings
from llava.pruning.kv_cache import CACHE, cache_in
from llava.pruning.methods.fastv import METHOD as FASTV
from tests.eval.conftest import assert_one_line, table_of

SMALL = shapes.Shape(32, 3, 2, 56, 48, 4, 4, 96, 300, 512)
IN_CROPS = shapes.Shape(32, 3, 2, 56, 48, 4, 4, 96, 300, 512, grid=(2, 2))


@pytest.fixture(scope="module")
def small():
    return random_model.build(SMALL, torch.device("cpu"), torch.float32, "sdpa")


def test_the_shapes_are_the_published_ones():
    sizes = {name: shape.width * shape.layers for name, shape in shapes.SHAPES.items()}
    assert sizes["llava-v1.5-7b"] == 4096 * 32
    assert sizes["llava-v1.5-13b"] == 5120 * 40
    assert shapes.SHAPES["llava-v1.5-7b"].grid is None
    across, down = shapes.SHAPES["llava-v1.6-7b"].grid
    assert (1 + across * down) * (336 // 14) ** 2 == 2880


def count_flops(counter: FlopCounterMode) -> int:
    """What was counted, less the angles of the rotary embedding, which older releases of transformers multiply out."""
    counts = counter.get_flop_counts()
    rotary = next((of_module for name, of_module in counts.items() if name.endswith("rotary_emb")), {})
    return counter.get_total_flops() - sum(rotary.values())


def test_counted_arithmetic_is_the_counters(small):
    decoder, tokens = Decoder.from_config(small.config), 37
    embeds = torch.randn(1, tokens, small.config.hidden_size)
    small.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cache = cache_in(small(inputs_embeds=embeds, logits_to_keep=1, use_cache=True))
    assert decoder.prefill_flops(tokens) == count_flops(counter)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(inputs_embeds=embeds[:, :1], **{CACHE: cache}, use_cache=True)
    assert decoder.step_flops(tokens + 1) == count_flops(counter)
    small.config._attn_implementation = "sdpa"


def test_a_row_for_every_setting_with_every_stage(small):
    job = make_job(SMALL.image_size, 1, None, 10, small, 4)
    methods = ("vispruner", "random", "fastervlm", "divprune", "visionzip", "fastv")
    settings = [
        Settings(None, pruning_method="none"),
        *(Settings(8, pruning_method=name) for name in methods),
    ]
    rows = measure(small, job, settings, rounds=2, warmup=1)
    assert [row["visual_tokens"] for row in rows] == [16] + 6 * [8]
    assert [row["prompt_tokens"] for row in rows] == [26, 18, 18, 18, 18, 18, 26]
    layers, step = SMALL.layers, 2 * SMALL.width * 4  # keys and values in four bytes
    whole, pruned, fastv = 26 + 3, 18 + 3, FASTV.full_layers * (26 + 3) + (layers - FASTV.full_layers) * (18 + 3)
    sizes = [row["kv_cache_bytes"] for row in rows]
    assert sizes == [layers * whole * step, *[layers * pruned * step] * 5, fastv * step]
    for row in rows:
        for name in TIMES:
            assert row[name]["median"] == pytest.approx((row[name]["least"] + row[name]["most"]) / 2)  # of two rounds
        assert row["peak_memory_bytes"] > 0
    assert rows[0]["selection"]["most"] == 0
    assert rows[1]["prefill_flops"] < rows[6]["prefill_flops"] < rows[0]["prefill_flops"]
    assert len(table({"model": "small", "answer_tokens": 4}, rows).splitlines()) == 2 + 2 + len(rows)


def test_baselines_have_as_many_tokens_as_they_keep(small):
    job, whole = make_job(SMALL.image_size, 1, None, 10, small, 4), Settings(None, pruning_method="none")
    settings = [whole, *(Settings(13, pruning_method=name) for name in ("pool", "dart", "blind"))]
    rows = measure(small, job, settings, rounds=1, warmup=0)
    assert [row["visual_tokens"] for row in rows] == [16, 12, 12, 0]  # 3 x 4 cells, and 4 + 8
    assert [row["prompt_tokens"] for row in rows] == [26, 22, 26, 10]
    assert rows[3]["vision"]["most"] == rows[3]["projection"]["most"] == 0
    assert rows[3]["prefill_flops"] < rows[1]["prefill_flops"] < rows[2]["prefill_flops"] < rows[0]["prefill_flops"]


def test_methods_that_choose_by_the_question_are_asked_one(small):
    job = make_job(SMALL.image_size, 1, None, 10, small, 4)
    small.get_vision_tower().text_side = random_model.build_text_side(SMALL, small.device)
    methods = ("scope", "cdpruner", "holov", "mmtok")
    rows = measure(small, job, [Settings(8, pruning_method=name) for name in methods], rounds=1, warmup=0)
    assert [row["visual_tokens"] for row in rows] == [8] * 4
    assert all(row["selection"]["median"] > 0 for row in rows)


def test_an_answer_is_its_first_token_and_the_further_ones(small):
    job = make_job(SMALL.image_size, 1, None, 10, small, 4)
    (row,) = measure(small, job, [Settings(4)], rounds=1, warmup=1)
    first, each, answer = (row[name]["median"] for name in ("first token", "per token", "answer"))
    assert answer == pytest.approx(first + 3 * each)


def test_a_picture_in_crops():
    model = random_model.build(IN_CROPS, torch.device("cpu"), torch.float32, "sdpa")
    job = make_job(56, 5, (2, 2), 10, model, 2)
    rows = measure(model, job, [Settings(None, pruning_method="none"), Settings(4)], rounds=1, warmup=0)
    assert [row["visual_tokens"] for row in rows] == [80, 20]


def test_prompts_in_a_batch_each_have_their_picture(small):
    rows = {}
    for batch in (1, 3):
        job = make_job(SMALL.image_size, 1, None, 10, small, 2, batch)
        assert (len(job.pixels), len(job.input_ids), len(job.answer(small, 2))) == (batch, batch, batch)
        (rows[batch],) = measure(small, job, [Settings(4)], rounds=1, warmup=0)
    assert rows[1]["visual_tokens"] == rows[3]["visual_tokens"] == 4
    for what in ("prefill_flops", "kv_cache_bytes"):
        assert rows[3][what] == 3 * rows[1][what]


def test_the_command_writes_table_json_and_plot(call, checkpoints, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib.backends.backend_agg")
    monkeypatch.setitem(shapes.SHAPES, "llava-tiny", SMALL)
    few = ["--device", "cpu", "--visual_token_num", 8, 4, "--rounds", 1, "--warmup", 0, "--answer-tokens", 2]
    code, out, _ = call(bench, "--shape", "llava-tiny", *few, "--layers", 2, "--output", tmp_path / "out")
    assert code == 0
    assert "layers 2," in out
    assert "threads on" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bench.json", "bench.md", "bench.png"}
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row["visual_tokens"] for row in found["rows"]] == [16, 8, 4]
    assert found["machine"] in out
    options = ["--pruning_method", "divprune", "blind", "fastv", "--compile"]
    code, out, _ = call(bench, "--model-path", checkpoints(), *few, *options)
    assert code == 0
    assert [row[0] for row in table_of(out)[1:]] == ["none", "divprune", "divprune", "blind", "fastv", "fastv"]


def test_a_plot_that_cannot_be_drawn_is_one_warning(call, caplog, monkeypatch, tmp_path):
    for name in ("matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    monkeypatch.setitem(shapes.SHAPES, "llava-tiny", SMALL)
    few = ["--device", "cpu", "--visual_token_num", 4, "--rounds", 1, "--warmup", 0, "--answer-tokens", 2]
    code, out, _ = call(bench, "--shape", "llava-tiny", *few, "--output", tmp_path)
    assert code == 0
    assert out.count("| vispruner |") == 1
    says = f"{tmp_path / 'bench.png'} is not drawn, that needs matplotlib: pip install -e '.[eval]'"
    assert [record.message for record in caplog.records] == [says]
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.md"}


def test_bad_input_is_one_line(call):
    assert_one_line(call(bench, "--shape", "llava-tiny", "--rounds", 0), "rounds at least 1")
    assert_one_line(call(bench, "--shape", "llava-tiny", "--batch-size", 0), "batch-size and layers must be at least 1")
    assert_one_line(call(bench, "--shape", "llava-tiny", "--layers", 0), "batch-size and layers must be at least 1")
    assert_one_line(call(bench, "--model-path", "/nowhere", "--layers", 4), "--layers goes with --shape")
    assert_one_line(call(bench, "--model-path", "/nowhere", "--device", "cpu"), "no such checkpoint folder")


def test_an_output_that_cannot_be_written_is_named(call, monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "llava-tiny", SMALL)
    few = ["--device", "cpu", "--visual_token_num", 4, "--rounds", 1, "--warmup", 0, "--answer-tokens", 2]
    code, out, err = call(bench, "--shape", "llava-tiny", *few, "--output", "/dev/null/out")
    assert (code, out) == (2, "")  # nothing is measured that could not be written
    assert err.startswith("error: ") and "/dev/null/out" in err
