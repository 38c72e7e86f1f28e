"""The model classes' own `from_pretrained`, and the families and towers it finds."""

import pytest
import torch

from llava import LlavaLlamaForCausalLM
from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.model import LlavaMistralForCausalLM, LlavaQwenForCausalLM
from llava.model.builder import LoadedModel
from llava.model.families import FAMILIES, conv_mode_of, find_family
from llava.vision.pixels import process_images
from tests.conftest import load, picture

CLASSES = [
    ("v1.5", "llama", LlavaLlamaForCausalLM),
    ("v1.6", "llama", LlavaLlamaForCausalLM),
    ("v1.5", "mistral", LlavaMistralForCausalLM),
    ("v1.6", "qwen", LlavaQwenForCausalLM),
]


@pytest.mark.parametrize(("version", "language_model", "cls"), CLASSES)
def test_it_gives_the_model_that_the_builder_gives(checkpoints, version, language_model, cls):
    folder = checkpoints(version, language_model)
    expected, model = load(folder), cls.from_pretrained(folder)
    assert isinstance(expected, LoadedModel)
    assert not model.training
    assert model.get_vision_tower().is_loaded
    image = picture()
    pixels = process_images([image], expected.image_processor, model.config)
    prompt = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5]])
    options = {"images": pixels, "image_sizes": [image.size], "visual_token_num": 16}
    assert torch.equal(model(prompt, **options).logits, expected.model(prompt, **options).logits)
    output = model.generate(prompt, **options, do_sample=False, max_new_tokens=3)
    assert output.tolist() == expected.model.generate(prompt, **options, do_sample=False, max_new_tokens=3).tolist()


def test_its_arguments_are_transformers_own(checkpoints):
    model = LlavaLlamaForCausalLM.from_pretrained(
        checkpoints("v1.6"), dtype=torch.bfloat16, attn_implementation="eager", mm_patch_merge_type="spatial"
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    assert model.config.mm_patch_merge_type == "spatial"
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        LlavaLlamaForCausalLM.from_pretrained(checkpoints(), colour="red")


def test_what_cannot_be_loaded_is_refused(checkpoints, tmp_path):
    with pytest.raises(InputError, match="is a checkpoint of LlavaMistralForCausalLM, not of LlavaLlamaForCausalLM"):
        LlavaLlamaForCausalLM.from_pretrained(checkpoints("v1.5", "mistral"))
    with pytest.raises(InputError, match="no such checkpoint folder"):
        LlavaLlamaForCausalLM.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot read the config"):
        LlavaLlamaForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("merge_type", ["spatial", "spatial_unpad"])
def test_cls_among_the_patches_of_crops_is_refused(checkpoints, merge_type):
    """Once `spatial` put every token in a wrong place, and `spatial_unpad` ended in an IndexError."""
    options = {"mm_vision_select_feature": "cls_patch", "mm_patch_merge_type": merge_type}
    with pytest.raises(InputError, match=f"mm_patch_merge_type '{merge_type}' needs mm_vision_select_feature 'patch'"):
        load(checkpoints("v1.6"), **options)
    model = load(checkpoints("v1.6"), **options | {"mm_patch_merge_type": "flat"})[1]
    pixels = torch.zeros(1, 3, 3, 168, 168)
    assert model.embed_images(pixels, [(336, 168)])[0].shape[0] == 3 * 145


def test_a_family_is_found_by_class_or_type():
    assert [find_family(family.causal_lm.__name__, None) for family in FAMILIES] == list(FAMILIES)
    assert find_family(None, "llava").causal_lm is LlavaLlamaForCausalLM
    assert find_family("GPT2LMHeadModel", "gpt2") is None


@pytest.mark.parametrize(
    ("name", "model_type", "mode"),
    [
        ("llava-v1.5-7b", None, "llava_v1"),
        ("llava-v1.6-mistral-7b", None, "mistral_instruct"),
        ("my-finetune", "llava_mistral", "mistral_instruct"),
        ("my-finetune", "llava_qwen", "qwen_1_5"),
        ("llava-v1.6-34b", "llava", "chatml_direct"),
        ("llava-llama-2-13b", "llava_llama", "llava_llama_2"),
        ("my-finetune", "llava", "llava_v1"),
    ],
)
def test_a_checkpoint_is_asked_in_the_template_it_was_trained_with(name, model_type, mode):
    assert conv_mode_of(name, model_type) == mode
