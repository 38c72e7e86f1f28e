"""Keywords that clients pass when they load a model: each has its effect, or is refused by name."""

import pytest
import torch

from llava.errors import InputError
from llava.model.builder import load_pretrained_model
from llava.model.families.llama import LlavaLlamaForCausalLM
from tests.conftest import load
from tests.model.conftest import edit_json, logits

KEYS = {"mm_patch_merge_type": "spatial", "image_grid_pinpoints": [[336, 336]]}


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16", torch.float16])
def test_either_name_of_the_dtype_is_taken_for_all_parts(checkpoints, loaded, name, value):
    model = load(checkpoints(), visual_token_num=16, **{name: value}).model
    wanted = torch.bfloat16 if value == "bfloat16" else value
    assert {weight.dtype for weight in model.parameters()} == {wanted} == {model.get_vision_tower().dtype}
    assert torch.isfinite(logits((None, model, loaded()[2], None))).all()


def test_auto_is_the_dtype_that_the_config_names(make_checkpoint):
    folder = make_checkpoint()
    edit_json(folder / "config.json", torch_dtype="bfloat16")
    assert load(folder, torch_dtype="auto").model.dtype is torch.bfloat16
    assert LlavaLlamaForCausalLM.from_pretrained(folder, dtype="auto").dtype is torch.bfloat16


def test_no_device_map_on_a_machine_without_a_gpu_gives_float32(checkpoints, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = load_pretrained_model(str(checkpoints()), None, "llava", device_map=None).model
    assert (model.dtype, model.device.type) == (torch.float32, "cpu")


@pytest.mark.parametrize("name", [None, "overwrite_config", "customized_config"])
def test_config_keys_are_taken_as_keywords_or_as_a_dict(checkpoints, name):
    def given(**keys) -> dict:
        return {name: keys} if name else keys

    config = load(checkpoints("v1.6"), **given(**KEYS)).model.config
    assert {key: getattr(config, key) for key in KEYS} == KEYS
    with pytest.raises(TypeError, match="no_such_key"):
        load(checkpoints("v1.6"), **given(no_such_key=1))


REFUSED = [
    ("v1.5", {"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio 'anyres_max_9'"),
    ("v1.5", {"image_aspect_ratio": "anyres"}, "needs image_grid_pinpoints"),
    ("v1.5", {"mm_patch_merge_type": "maxpool"}, "mm_patch_merge_type 'maxpool'"),
    ("v1.5", {"mm_patch_merge_type": "spatial_unpad"}, r"missing model\.image_newline"),
    ("v1.6", {"image_grid_pinpoints": [[200, 168]]}, "200 x 168, which is not made of crops of 168 pixels"),
    ("v1.6", {"image_grid_pinpoints": [[168 * 1000, 168 * 1000]]}, "more than 100 crops"),
    ("v1.6", {"overwrite_config": ["mm_patch_merge_type"]}, "overwrite_config must be a dict"),
    ("v1.6", {"customized_config": ["mm_patch_merge_type"]}, "customized_config must be a dict"),
    ("v1.5", {"torch_dtype": "float99"}, "torch_dtype"),
    ("v1.5", {"dtype": "bfloat16", "torch_dtype": torch.float16}, r"torch\.float16 and dtype bfloat16 mean the same"),
    ("v1.5", {"device": "nonsense"}, "no such device: nonsense"),
    ("v1.5", {"load_8bit": True, "load_4bit": True}, "one of"),
    (
        "v1.5",
        {"load_4bit": True, "quantization_config": object()},
        "one of quantization_config, load_8bit and load_4bit",
    ),
    ("v1.5", {"multimodal": False}, "multimodal=False is not supported"),
]


@pytest.mark.parametrize(("version", "options", "named"), REFUSED, ids=[named for *_, named in REFUSED])
def test_options_that_cannot_be_meant_are_refused(checkpoints, version, options, named):
    with pytest.raises(InputError, match=named):
        load_pretrained_model(str(checkpoints(version)), None, "llava", **{"device": "cpu"} | options)


def test_what_changes_nothing_is_taken(checkpoints):
    nothing = {"multimodal": True, "low_cpu_mem_usage": True, "trust_remote_code": False, "max_memory": None}
    assert load(checkpoints(), **nothing).model.dtype is torch.float32
    assert load(checkpoints(), dtype="float16", torch_dtype=torch.float16).model.dtype is torch.float16


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
