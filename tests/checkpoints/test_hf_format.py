"""Checkpoints in the layout of transformers' own LLaVA classes: the logits of those, or a refusal that says why."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.checkpoints.tokenizer import load_tokenizer, tokenizer_image_token
from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.inference.options import ModelOptions
from llava.model.builder import load_pretrained_model
from llava.model.template import find_template
from llava.vision.pixels import process_images
from tests.conftest import ask, count_visual_tokens, load, picture
from tests.hf_checkpoints import GRID, IMAGE, ROWS, SIDE, copy_with, make_hf_checkpoint
from tests.model.conftest import edit_json, edit_weights, without

SIZE = (90, 60)


@pytest.fixture(scope="session")
def hf_checkpoints(tmp_path_factory):
    """Folder of a checkpoint, made once: hf_checkpoints("llava_next", "mistral", "old")."""

    @functools.cache
    def get(*options):
        folder = tmp_path_factory.mktemp("hf") / "-".join(("llava", *options))
        folder.mkdir()
        return make_hf_checkpoint(folder, *options)

    return get


def pixels_of(loaded: tuple, size: tuple[int, int] = SIZE):
    _, model, image_processor, _ = loaded
    return process_images([picture(*size)], image_processor, model.config)


def our_logits(loaded: tuple) -> torch.Tensor:
    """The logits of three tokens after an image."""
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5, 6, 7]])
    with torch.no_grad():
        return loaded[1](ids, images=pixels_of(loaded), image_sizes=[SIZE]).logits[0, -3:]


def their_logits(folder, pixels: torch.Tensor, image_tokens: int) -> torch.Tensor:
    """The same from transformers' own class."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    ids = torch.tensor([[1, *[IMAGE] * image_tokens, 5, 6, 7]])
    size = {"image_sizes": torch.tensor([SIZE[::-1]])} if model.config.model_type == "llava_next" else {}
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels, **size).logits[0, -3:]


@pytest.mark.parametrize("names", ["as saved", "old", "new"])
@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_logits_are_those_of_transformers_own_class(hf_checkpoints, kind, names):
    folder = hf_checkpoints(kind, "llama", names)
    loaded = load(folder)
    theirs = their_logits(folder, pixels_of(loaded), *count_visual_tokens(loaded, ["<image>"], [picture(*SIZE)]))
    assert theirs.shape == (3, ROWS)
    assert torch.equal(our_logits(loaded), theirs)


@pytest.mark.parametrize(
    ("text", "cls", "mode"),
    [
        ("llama", "LlavaLlamaForCausalLM", "llava_v1"),
        ("mistral", "LlavaMistralForCausalLM", "mistral_instruct"),
        ("qwen2", "LlavaQwenForCausalLM", "qwen_1_5"),
    ],
)
def test_every_family_is_read(hf_checkpoints, text, cls, mode):
    folder = hf_checkpoints("llava_next", text)
    loaded = load(folder)
    assert type(loaded.model).__name__ == cls
    theirs = their_logits(folder, pixels_of(loaded), *count_visual_tokens(loaded, ["<image>"], [picture(*SIZE)]))
    assert torch.equal(our_logits(loaded), theirs)
    assert find_template("a-name", ModelOptions(str(folder)).model_type, as_upstream=True).name == mode
    assert type(type(loaded.model).from_pretrained(folder)) is type(loaded.model)


def test_keys_that_are_not_there_stand_for_transformers_defaults(hf_checkpoints, tmp_path):
    """The published configs leave out what Llama-7B has anyway."""
    folder = hf_checkpoints("llava")
    loaded = load(folder)
    values = json.loads((folder / "config.json").read_text())
    for key in ("rms_norm_eps", "rope_parameters", "hidden_act", "head_dim"):
        values["text_config"].pop(key)
    copied = copy_with(folder, tmp_path / "llava", **values | {"vision_feature_layer": None})
    theirs = their_logits(copied, pixels_of(loaded), 16)
    assert torch.equal(our_logits(load(copied)), theirs)
    assert not torch.equal(theirs, our_logits(loaded))


def test_the_tower_inside_is_used_and_pruned(hf_checkpoints):
    loaded = load(hf_checkpoints("llava"), visual_token_num=4)
    assert count_visual_tokens(loaded, ["<image>"], [picture(*SIZE)]) == [4]
    assert our_logits(loaded).isfinite().all()
    assert ask(loaded, ["<image>\nWhat?", "What?"], [picture(*SIZE)])


@pytest.mark.parametrize("nested", [False, True])
def test_pictures_are_padded_unless_the_image_processor_says_otherwise(hf_checkpoints, tmp_path, nested):
    """As LLaVA-1.5 was trained, in either file of the image processor's config; their centre where it is asked for."""
    folder = copy_with(hf_checkpoints("llava"), tmp_path / "llava")
    assert load(folder).model.config.image_aspect_ratio == "pad"
    path = folder / "preprocessor_config.json"
    for do_pad, expected in ((True, "pad"), (False, "square")):
        values = json.loads(path.read_text()) | {"image_processor_type": "LlavaImageProcessor", "do_pad": do_pad}
        if nested:
            (folder / "processor_config.json").write_text(json.dumps({"image_processor": values}))
        else:
            path.write_text(json.dumps(values))
        assert load(folder).model.config.image_aspect_ratio == expected


def test_the_centre_of_a_picture_is_what_transformers_sees_of_it(hf_checkpoints):
    folder = hf_checkpoints("llava")
    loaded = load(folder, image_aspect_ratio="square")
    theirs = CLIPImageProcessorPil.from_pretrained(folder)([picture(*SIZE)], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels_of(loaded), theirs)
    assert not torch.equal(pixels_of(load(folder)), theirs)


def test_the_grid_is_turned_from_height_first_to_width_first(hf_checkpoints, tmp_path):
    """Of two sizes that are as good the first is taken, so that their order counts too."""
    loaded = load(hf_checkpoints("llava_next"))
    assert loaded.model.config.image_grid_pinpoints == [[width, height] for height, width in GRID]
    folder = copy_with(hf_checkpoints("llava_next"), tmp_path / "llava", image_grid_pinpoints=[[SIDE, 2 * SIDE]])
    with pytest.raises(InputError, match="of the model and of its image processor are not the same"):
        load(folder)
    edit_json(folder / "preprocessor_config.json", image_grid_pinpoints=[[SIDE, 2 * SIDE]])
    assert load(folder).model.config.image_grid_pinpoints == [[2 * SIDE, SIDE]]


CONFIGS = [
    ({"model_type": "llava_onevision", "architectures": ["LlavaOnevision"]}, "not a LLaVA checkpoint but LlavaOn"),
    ({"architectures": ["LlavaLlamaForCausalLM"]}, "own LLaVA format, but of LlavaLlamaForCausalLM"),
    ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu', only 'gelu' is read"),
    ({"multimodal_projector_bias": False}, "multimodal_projector_bias is False"),
    ({"vision_feature_layer": [-2, -5]}, "vision_feature_layer .* has several layers"),
    ({"vision_feature_layer": -9}, "mm_vision_select_layer -9 is outside the tower's 3 layers"),
    ({"vision_feature_select_strategy": "some"}, "vision_feature_select_strategy is 'some'"),
    ({"text_config": "llama"}, "text_config is 'llama'"),
    ({"text_config": {"hidden_size": "48"}}, "text_config: hidden_size is '48'"),
    ({"text_config": {"model_type": "phi"}}, "is not a LLaVA checkpoint but llava_phi"),
    ({"text_config": {"model_type": "no-such"}}, "no-such"),
    ({"vision_config": {"model_type": "siglip_vision_model"}}, "not CLIP but 'siglip_vision_model'"),
    ({"vision_config": {"num_attention_heads": 0}}, "vision_config: num_attention_heads is 0"),
]


@pytest.mark.parametrize(("values", "named"), CONFIGS, ids=[named for _, named in CONFIGS])
def test_configs_that_cannot_be_read_are_refused(hf_checkpoints, tmp_path, values, named):
    folder = copy_with(hf_checkpoints("llava"), tmp_path / "llava", **values)
    with pytest.raises(InputError, match=named) as raised:
        load(folder)
    assert len(str(raised.value).splitlines()) == 1


NAMES = "language_model.model.norm.weight"
WEIGHTS = [
    (lambda t: t | {"qformer.weight": torch.zeros(1)}, r"no part of a LLaVA: qformer\.weight"),
    (lambda t: t | {"multi_modal_projector.linear_3.bias": torch.zeros(1)}, r"LLaVA: multi_modal_projector\.linear_3"),
    (lambda t: t | {"model.language_model.norm.weight": t[NAMES].clone()}, f"twice: {NAMES} and model.language_model"),
    (lambda t: t | {"language_model.model.extra": torch.zeros(1)}, r"unexpected model\.extra"),
    (without("language_model.lm_head.weight"), r"missing lm_head\.weight"),
    (without("multi_modal_projector.linear_2.bias"), r"missing model\.mm_projector\.2\.bias"),
    (without("vision_tower.pre_layrnorm.bias"), r"missing pre_layrnorm\.bias"),
    (without("vision_tower"), "its weights lack the tower"),
]


@pytest.mark.parametrize(("change", "named"), WEIGHTS, ids=[named for _, named in WEIGHTS])
def test_weights_are_all_there_and_no_others(hf_checkpoints, tmp_path, change, named):
    folder = copy_with(hf_checkpoints("llava"), tmp_path / "llava")
    edit_weights(folder / "model.safetensors", change)
    with pytest.raises(InputError, match=named):
        load(folder)


def test_shards_are_read(hf_checkpoints, tmp_path):
    folder = copy_with(hf_checkpoints("llava"), tmp_path / "llava")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = [dict(list(weights.items())[i::3]) for i in range(3)]
    weight_map = {}
    for i, part in enumerate(parts):
        save_file(part, folder / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(part, f"model-{i}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(our_logits(load(folder)), our_logits(load(hf_checkpoints("llava"))))


def test_training_does_not_start_from_this_layout(hf_checkpoints):
    from llava.train.build import _read_config

    with pytest.raises(InputError, match=r"scripts/convert_checkpoint\.py makes it LLaVA's"):
        _read_config(hf_checkpoints("llava"))


def test_a_command_cuts_pictures_as_it_is_asked_to(hf_checkpoints):
    options = ModelOptions(str(hf_checkpoints("llava")), device="cpu", image_aspect_ratio="square")
    assert options.load().model.config.image_aspect_ratio == "square"
    with pytest.raises(InputError, match="unknown image_aspect_ratio 'stretch'"):
        load_pretrained_model(options.model_path, None, "llava", device="cpu", image_aspect_ratio="stretch")


@pytest.fixture(scope="module")
def fast(hf_checkpoints, tmp_path_factory):
    """A checkpoint with a Llama-like fast tokenizer, which puts a space in front of a whole text alone."""
    folder = copy_with(hf_checkpoints("llava"), tmp_path_factory.mktemp("fast") / "llava")
    pieces = SentencePieceProcessor(str(folder / "tokenizer.model"))
    (folder / "tokenizer.model").unlink()
    names = [pieces.id_to_piece(i) for i in range(len(pieces))]
    tokenizer = Tokenizer(models.Unigram([(name, -float(i)) for i, name in enumerate(names)], 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in ("<image>", "<pad>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    edit_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    own = {"image_token": "<image>", "patch_size": 14, "num_additional_image_tokens": 1}
    own |= {"processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default"}
    (folder / "processor_config.json").write_text(json.dumps(own))
    return folder


@pytest.mark.parametrize(
    "prompt",
    [
        "USER: <image>\nWhat is it? ASSISTANT:",
        "<image>What  is it?",
        "A <image> dog</s>USER: two  <image>cats",
        "<image><image>\n",
        "no picture",
    ],
)
def test_ids_of_a_prompt_are_auto_processor_s(fast, prompt):
    processor, ours = AutoProcessor.from_pretrained(fast), load_tokenizer(fast)
    images = [picture(*SIZE)] * prompt.count("<image>") or None
    theirs = processor(images=images, text=prompt)["input_ids"][0]
    ids = tokenizer_image_token(prompt, ours)
    assert ids.count(IMAGE_TOKEN_INDEX) == prompt.count("<image>")
    assert [i for number in ids for i in ([IMAGE] * 16 if number == IMAGE_TOKEN_INDEX else [number])] == theirs
    assert tokenizer_image_token(prompt, ours, return_tensors="pt").tolist() == ids


def test_answers_with_a_fast_tokenizer_are_transformers_(fast):
    prompt, image = "USER: <image>\nWhat is it? ASSISTANT:", picture(SIDE, SIDE)
    model = AutoModelForImageTextToText.from_pretrained(fast).eval()
    inputs = AutoProcessor.from_pretrained(fast)(images=image, text=prompt, return_tensors="pt")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs.input_ids.shape[1] :]
    assert ask(load(fast), [prompt], [image], 6)[0] == output.tolist()
