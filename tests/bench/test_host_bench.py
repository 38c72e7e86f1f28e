"""The bench of transformers' models: the published shapes, a row for each share with every stage, and refusals."""

import json

import pytest
import torch
import transformers

import llava.bench.__main__ as bench
from llava.bench import shapes
from llava.bench.hosts import HOST_TIMES, build_host, make_host_job, measure_host
from tests.eval.conftest import assert_one_line

TOKENS = {"image_token_id": 100, "video_token_id": 101, "vision_start_token_id": 102, "vision_end_token_id": 103}
TEXT = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}  # fmt: skip
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
          "patch_size": 14}  # fmt: skip
TINY = {
    "Qwen2.5-VL-7B": {"window_size": 56, "fullatt_block_indexes": [1]},
    "Qwen3-VL-8B": {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
}
FEW = ("--device", "cpu", "--rounds", 1, "--warmup", 0, "--answer-tokens", 3, "--prompt-tokens", 10)


@pytest.fixture
def tiny(monkeypatch):
    """The hosts' names with tiny shapes."""
    for name, vision in TINY.items():
        shape = shapes.HostShape(shapes.HOSTS[name].name, VISION | vision, TEXT, TOKENS)
        monkeypatch.setitem(shapes.HOSTS, name, shape)


@pytest.mark.parametrize("name, billions", [("Qwen2.5-VL-7B", 8.29), ("Qwen3-VL-8B", 8.77)])
def test_the_shapes_have_as_many_parameters_as_the_published_models(name, billions):
    shape = shapes.HOSTS[name]
    config = getattr(transformers, f"{shape.name}Config")(
        vision_config=dict(shape.vision), text_config=dict(shape.text), **shape.others
    )
    with torch.device("meta"):
        model = getattr(transformers, f"{shape.name}ForConditionalGeneration")(config)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e9, 2) == billions


def test_a_host_in_lower_case_is_a_shape_and_a_share_of_one_the_first_row(call, tiny, tmp_path):
    options = ("--picture-tokens", 12, "--shares", 1, 0.5, 1, "--output", tmp_path)
    for shape, name in (("qwen2.5-vl-7b", "Qwen2.5-VL-7B"), ("qwen3-vl-8b", "Qwen3-VL-8B")):
        assert call(bench, "--shape", shape, *options, *FEW)[0] == 0
        (found,) = json.loads((tmp_path / "bench.json").read_text())
        assert found["model"] == name
        assert [(row["method"], row["visual_tokens"]) for row in found["rows"]] == [("none", 12), ("vispruner", 6)]


@pytest.mark.parametrize("name", TINY)
def test_each_picture_has_a_table_of_shares(call, tiny, tmp_path, name):
    options = (
        "--picture-tokens",
        12,
        20,
        "--shares",
        0.5,
        0.1,
        "--layers",
        2,
        "--pruning_method",
        "vispruner",
        "mmtok",
    )
    code, out, _ = call(bench, "--host", name, *options, *FEW, "--output", tmp_path)
    assert code == 0
    assert out.count("| vispruner |") == out.count("| mmtok ") == 4
    first, second = json.loads((tmp_path / "bench.json").read_text())
    assert (first["picture_tokens"], second["picture_tokens"], first["layers"]) == (12, 20, 2)
    assert [row["visual_tokens"] for row in first["rows"]] == [12, 6, 1, 6, 1]
    assert [row["visual_tokens"] for row in second["rows"]] == [20, 10, 2, 10, 2]
    step = 2 * 16 * 4 * 2  # keys and values of two layers in four bytes
    for table, whole in ((first, 12), (second, 20)):
        for row in table["rows"]:
            length = 10 + 2 + row["visual_tokens"]
            assert row["prompt_tokens"] == length
            assert row["kv_cache_bytes"] == step * (length + 2)  # the last token of an answer is not in it
            assert [stage for stage in row if isinstance(row[stage], dict)] == list(HOST_TIMES)
            assert row["first token"]["median"] > row["prefill"]["median"] > 0
            assert (row["selection"]["median"] > 0) == (row["visual_tokens"] < whole)
    assert (tmp_path / "bench.md").is_file()


def test_the_tower_runs_once_for_its_own_time_and_once_for_an_answer_s(tiny):
    """It is most of the time of a large picture: on a CPU each run of it costs minutes."""
    model = build_host(shapes.HOSTS["Qwen2.5-VL-7B"], 1, torch.device("cpu"), torch.float32, "sdpa")
    job, runs = make_host_job(model, 12, 10, 4), []
    model.model.visual.register_forward_hook(lambda *_: runs.append(1))
    (row,) = measure_host(model, job, [{"visual_token_num": 0.5}], rounds=3, warmup=1)
    assert len(runs) == 4 * 2 + 1  # and once for the memory
    median = {stage: row[stage]["median"] for stage in HOST_TIMES}
    assert 0 < median["prefill"] < median["first token"] < median["answer"]


def test_bad_input_is_one_line(call, tiny):
    assert_one_line(call(bench, "--host", "Qwen"), "Qwen2.5-VL-7B")
    host = ("--host", "Qwen3-VL-8B")
    assert_one_line(call(bench, *host, "--visual_token_num", 64), "visual_token_num is not for a host")
    for name in ("--compile", "--compile_decoding"):
        assert_one_line(call(bench, *host, name), "compile is not for a host")
    assert_one_line(call(bench, "--shape", "llava-tiny", "--shares", 0.5), "shares is for a host alone")
    assert_one_line(call(bench, *host, "--shares", 1.5), "1.5")
    assert_one_line(call(bench, "--shape", "qwen3-vl-8b", "--compile_decoding"), "compile is not for a host")
    assert_one_line(call(bench, *host, "--picture-tokens", 0), "picture-tokens must be at least 1")
    assert_one_line(call(bench, *host, "--pruning_method", "fastv"), "fastv drops tokens inside the language model")
    assert_one_line(call(bench, *host, "--shape", "llava-tiny"), "not allowed with argument")
