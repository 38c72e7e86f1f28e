"""Keywords that clients pass when they load a model: each has its effect, or is refused by name."""

import json

import pytest
import torch

from llava.errors import InputError
from llava.model.builder import load_pretrained_model
from llava.model.families.llama import LlavaLlamaForCausalLM
from tests.conftest import load


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16"])
def test_either_name_of_the_dtype_is_taken(checkpoints, name, value):
    model = load(checkpoints(), **{name: value}).model
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.get_vision_tower().dtype is torch.bfloat16


def test_auto_is_the_dtype_that_the_config_names(make_checkpoint):
    folder = make_checkpoint()
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch_dtype": "bfloat16"}))
    assert load(folder, torch_dtype="auto").model.dtype is torch.bfloat16
    assert LlavaLlamaForCausalLM.from_pretrained(folder, dtype="auto").dtype is torch.bfloat16


def test_two_dtypes_are_refused_unless_they_are_the_same(checkpoints):
    assert load(checkpoints(), dtype="float16", torch_dtype=torch.float16).model.dtype is torch.float16
    with pytest.raises(InputError, match=r"torch_dtype torch\.float16 and dtype bfloat16 mean the same"):
        load(checkpoints(), dtype="bfloat16", torch_dtype=torch.float16)


def test_no_device_map_on_a_machine_without_a_gpu_gives_float32(checkpoints, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = load_pretrained_model(str(checkpoints()), None, "llava", device_map=None).model
    assert (model.dtype, model.device.type) == (torch.float32, "cpu")


@pytest.mark.parametrize("name", ["overwrite_config", "customized_config"])
def test_a_dict_of_config_keys_is_taken(checkpoints, name):
    model = load(checkpoints("v1.6"), **{name: {"mm_patch_merge_type": "spatial"}}).model
    assert model.config.mm_patch_merge_type == "spatial"
    with pytest.raises(InputError, match=f"{name} must be a dict"):
        load(checkpoints("v1.6"), **{name: ["mm_patch_merge_type"]})
    with pytest.raises(TypeError, match="no_such_key"):
        load(checkpoints("v1.6"), **{name: {"no_such_key": 1}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_memory", {0: "10GiB"}),
        ("offload_folder", "offload"),
        ("trust_remote_code", True),
    ],
)
def test_what_cannot_be_followed_is_refused(checkpoints, name, value):
    with pytest.raises(InputError, match=f"{name} is not supported: "):
        load(checkpoints(), **{name: value})
    with pytest.raises(InputError, match=f"{name} is not supported: "):
        LlavaLlamaForCausalLM.from_pretrained(checkpoints(), **{name: value})


def test_what_changes_nothing_is_taken(checkpoints):
    loaded = load(checkpoints(), multimodal=True, low_cpu_mem_usage=True, trust_remote_code=False, max_memory=None)
    assert loaded.model.dtype is torch.float32
    with pytest.raises(InputError, match="multimodal=False is not supported"):
        load(checkpoints(), multimodal=False)


def test_two_quantizations_are_refused(checkpoints):
    with pytest.raises(InputError, match="choose one of quantization_config, load_8bit and load_4bit"):
        load(checkpoints(), load_4bit=True, quantization_config=object())


def test_a_model_that_was_loaded_on_the_cpu_moves_with_its_tower(checkpoints):
    model = load(checkpoints()).model.to(torch.bfloat16)
    assert (model.dtype, model.get_vision_tower().dtype) == (torch.bfloat16, torch.bfloat16)
    moved = model.to("meta")
    assert (moved.device.type, moved.get_vision_tower().device.type) == ("meta", "meta")
