"""What a checkpoint holds besides its model, and what its files say: reported in one line, before hours are spent."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from llava.checkpoints.weight_files import read_weights
from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.model.builder import load_pretrained_model
from llava.model.template import find_template
from llava.vision.grids import get_anyres_image_grid_shape, parse_grid_pinpoints
from tests.conftest import load
from tests.model.conftest import edit_json, edit_weights

KEY = "model.layers.1.mlp.up_proj.weight"


def put(value: float, place: int):
    """A change that puts a value into one place of one weight."""

    def change(tensors: dict) -> dict:
        if KEY in tensors:
            tensors[KEY].view(-1)[place] = value
        return tensors

    return change


@pytest.mark.parametrize("version", ["v1.5", "v1.6"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, -1])
def test_one_value_that_is_not_finite_is_named(make_checkpoint, version, value, place):
    folder = make_checkpoint(version=version)
    edit_weights(folder, put(value, place))
    with pytest.raises(InputError, match=rf"not finite in {KEY}"):
        load(folder)


def test_what_overflows_in_half_precision_is_named(make_checkpoint):
    folder = make_checkpoint()
    edit_weights(folder, lambda t: {k: x.float() for k, x in put(1e6, 3)({k: x.float() for k, x in t.items()}).items()})
    load(folder)
    with pytest.raises(InputError, match=rf"not finite in {KEY}"):
        load(folder, torch_dtype="float16")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"num_hidden_layers": 1_000_000}, "its config has 1000000 layers, its weights have 3"),
        ({"mm_projector_type": "mlp100000x_gelu"}, "has more than 16 layers"),
    ],
)
def test_sizes_of_a_config_that_the_weights_do_not_have_are_told_before_modules_are_made(
    make_checkpoint, monkeypatch, values, named
):
    folder = make_checkpoint()
    edit_json(folder / "config.json", **values)
    made, init = [], torch.nn.Module.__init__
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda self, *args, **kwargs: made.append(1) or init(self))
    with pytest.raises(InputError, match=named):
        load(folder)
    assert len(made) < 10_000


@pytest.mark.parametrize("name", ["../outside.bin", "/tmp/outside.bin", "sub/inside.bin"])
def test_a_weight_index_may_not_name_a_file_elsewhere(make_checkpoint, name):
    folder = make_checkpoint()
    index = folder / "pytorch_model.bin.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    shard = next(iter(weight_map.values()))
    shutil.copy(folder / shard, folder.parent / "outside.bin")
    edit_json(index, weight_map={k: name if file == shard else file for k, file in weight_map.items()})
    with pytest.raises(InputError, match="names a file that is not in its folder"):
        load(folder)


FIELDS = [
    ("config.json", {"hidden_size": "64"}, "hidden_size is '64'"),
    ("config.json", {"hidden_size": True}, "hidden_size is True"),
    ("config.json", {"num_attention_heads": 0}, "num_attention_heads is 0"),
    ("config.json", {"num_attention_heads": 3}, "not divisible by num_attention_heads 3"),
    ("config.json", {"num_key_value_heads": 3}, "not divisible by num_key_value_heads 3"),
    ("config.json", {"architectures": "LlavaLlamaForCausalLM"}, "architectures is 'LlavaLlamaForCausalLM'"),
    ("config.json", {"mm_vision_select_layer": None}, "mm_vision_select_layer is None"),
    ("config.json", {"image_grid_pinpoints": [[336]]}, "image_grid_pinpoints"),
    ("config.json", {"rms_norm_eps": "x"}, "rms_norm_eps is 'x'"),
    ("config.json", {"hidden_act": "no_such"}, "no LlavaLlamaForCausalLM can be built"),
    ("config.json", {"text_config": {}}, "transformers' own LLaVA format"),
    ("config.json", {"mm_hidden_size": 32}, "64 channels, the checkpoint's mm_hidden_size is 32"),
    ("config.json", {"mm_vision_tower": "../nowhere-else"}, "no such vision tower folder"),
    ("generation_config.json", {"temperature": "hot"}, "temperature is 'hot'"),
    ("generation_config.json", {"top_p": 2}, "top_p is 2"),
    ("generation_config.json", {"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
    ("tokenizer_config.json", {"bos_token": 7}, "bos_token is 7"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens_decoder"),
    ("tower/config.json", {"patch_size": 0}, "patch_size is 0"),
    ("tower/config.json", {"image_size": 7}, "patch_size 14 is greater than image_size 7"),
    ("tower/config.json", {"num_attention_heads": 7}, "not divisible by num_attention_heads 7"),
    ("tower/config.json", {"num_hidden_layers": 5}, r"vision tower .* missing encoder\.layers\.4"),
    ("tower/config.json", {"model_type": "dinov2"}, "not CLIP or SigLIP but 'dinov2'"),
    ("tower/preprocessor_config.json", {"image_std": [0, 1, 1]}, "image_std"),
    ("tower/preprocessor_config.json", {"image_mean": [0.5]}, "image_mean"),
    ("tower/preprocessor_config.json", {"crop_size": {"height": 336, "width": 336}}, "crops of 336 pixels"),
    ("tower/preprocessor_config.json", {"crop_size": None}, "no crop_size"),
    ("tower/preprocessor_config.json", {"resample": "bicubic"}, "resample is 'bicubic'"),
]


@pytest.mark.parametrize(("file", "values", "named"), FIELDS)
def test_a_field_of_a_wrong_type_or_size_is_named(make_checkpoint, file, values, named):
    folder = make_checkpoint()
    edit_json(folder / file.replace("tower/", "../clip-vit-tiny-random/"), **values)
    with pytest.raises(InputError, match=named) as raised:
        load(folder)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["adapter_model.bin", "non_lora_trainables.bin", "adapter_model.safetensors"])
def test_weights_that_are_not_read_are_named(make_checkpoint, tmp_path, name):
    folder = make_checkpoint()
    projector = {key: tensor for key, tensor in read_weights(folder).items() if "mm_projector" in key}
    torch.save(projector, folder / "mm_projector.bin")
    load(folder)  # as the published checkpoints have it
    write = save_file if name.endswith("safetensors") else torch.save
    write({"lora": torch.zeros(1)}, folder / name)
    with pytest.raises(InputError, match=rf"weights that are not read here: {name} \(LoRA"):
        load(folder)
    lora = tmp_path / "llava-lora"
    lora.mkdir()
    for file in ("config.json", "mm_projector.bin", name):
        shutil.copy(folder / file, lora / file)
    edit_json(lora / "config.json", mm_vision_tower=str(folder.parent / "clip-vit-tiny-random"))
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"weights that --model-base does not read: {name}"):
        load_pretrained_model(str(lora), str(folder), "llava-lora", device="cpu")
    (lora / name).unlink()
    assert load_pretrained_model(str(lora), str(folder), "llava-lora", device="cpu").context_len == 4096


def test_a_folder_that_needs_a_base_says_so(make_checkpoint):
    folder = make_checkpoint()
    for shard in folder.glob("pytorch_model*"):
        shard.unlink()
    torch.save({"lora": torch.zeros(1)}, folder / "mm_projector.bin")
    with pytest.raises(InputError, match="a projector alone: --model-base must name the language model"):
        load(folder)
    torch.save({"lora": torch.zeros(1)}, folder / "adapter_model.bin")
    with pytest.raises(InputError, match="is a LoRA checkpoint"):
        load(folder)


def test_a_tuned_tower_is_used_though_the_config_does_not_say_so(make_checkpoint, caplog):
    folder = make_checkpoint(version="v1.6")
    expected = load(folder)[1]
    edit_json(folder / "config.json", unfreeze_mm_vision_tower=False)
    with caplog.at_level(logging.WARNING):
        model = load(folder)[1]
    assert "differs from" in caplog.text
    pixels = torch.ones(1, 3, 168, 168)
    assert torch.equal(model.encode_images(pixels).tokens, expected.encode_images(pixels).tokens)


def test_a_copy_of_the_tower_in_another_dtype_is_not_taken_for_a_tuned_one(make_checkpoint, caplog):
    folder = make_checkpoint()
    expected = load(folder)[1]
    rounded = lambda t: {k: x.bfloat16().half() if "vision_tower" in k else x for k, x in t.items()}  # noqa: E731
    edit_weights(folder, rounded)
    with caplog.at_level(logging.WARNING):
        model = load(folder)[1]
    assert "differs" not in caplog.text
    pixels = torch.ones(1, 3, 168, 168)
    assert torch.equal(model.encode_images(pixels).tokens, expected.encode_images(pixels).tokens)


def test_a_checkpoint_of_a_training_names_the_model(make_checkpoint):
    folder = make_checkpoint()
    for name, named in (
        ("checkpoint-10", f"holds the trained weights alone: the model is {folder}"),
        ("stopped", "its training has not ended"),
    ):
        (folder / name).mkdir()
        (folder / name / "trainer_state.json").write_text("{}")
        with pytest.raises(InputError, match=named):
            load(folder / name)


def test_pinpoints_as_a_range_are_read(checkpoints):
    assert parse_grid_pinpoints("(1x1),...,(2x3)", 10) == [[x * 10, y * 10] for x in (1, 2) for y in (1, 2, 3)]
    assert get_anyres_image_grid_shape((400, 100), "(1x1),...,(6x6)", 336) == (2, 1)
    model = load(checkpoints("v1.6"), image_grid_pinpoints="(1x1),...,(2x2)")[1]
    assert model.config.image_grid_pinpoints == [[168, 168], [168, 336], [336, 168], [336, 336]]


@pytest.mark.parametrize(
    "given", ["(1x1)", "[[0, 1]]", "[336, 336]", "[['a', 'b']]", "[[336.5, 336]]", "__import__('os')", "[" * 5000, "[]"]
)
def test_other_pinpoints_are_refused(given):
    with pytest.raises(InputError, match=r"must be a list of \[width, height\]"):
        parse_grid_pinpoints(given, 336)


@pytest.mark.parametrize(
    ("name", "mode", "warns"),
    [
        ("llava-llama-3-8b", "llava_llama_3", False),
        ("llama3-llava-next-8b", "llava_llama_3", False),
        ("llava-phi-3-mini", "llava_v1", True),
        ("LLaVA-7b-v0", "llava_v0", False),
        ("llava-v1.5-7b", "llava_v1", False),
    ],
)
def test_a_model_of_an_unknown_template_is_named(caplog, name, mode, warns):
    with caplog.at_level(logging.WARNING):
        assert find_template(name, "llava_llama", as_upstream=True).name == mode
    assert ("see --conv-mode" in caplog.text) is warns


def test_max_length_counts_the_prompt_s_ids(model_and_image):
    model, image = model_and_image
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 9]])
    options = {**image, "do_sample": False, "min_new_tokens": 2}
    assert model.generate(ids, max_length=5, **options).shape[1] == 2
    with pytest.raises(InputError, match="max_length 3 leaves no room after a prompt of 3 tokens"):
        model.generate(ids, max_length=3, **options)


def test_an_answer_ends_with_its_turn_too(make_checkpoint):
    folder = make_checkpoint(language_model="qwen")
    end_of_text = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<|endoftext|>")
    edit_json(folder / "generation_config.json", eos_token_id=end_of_text)
    tokenizer, model, *_ = load(folder)
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == ["<|endoftext|>", "<|im_end|>"]
