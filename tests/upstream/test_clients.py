"""What programs written for upstream LLaVA, LLaVA-NeXT and VLMEvalKit import and call."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.model import llava_arch
from llava.model.utils import auto_upgrade
from llava.pruning import Settings
from llava.vision.pixels import process_images, resize_and_pad_image, unpad_image
from tests.conftest import load, picture

PROMPT = torch.tensor([[1, 20, IMAGE_TOKEN_INDEX, 30, 40, 50]])
GREEDY = {"do_sample": False, "max_new_tokens": 5}


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (128, 128)])
def test_unpad_image_gives_back_what_was_padded(size):
    white = picture(*size).point(lambda value: 255)
    padded = torch.tensor(np.array(resize_and_pad_image(white, (96, 64)).convert("L"))).unsqueeze(0)
    inside = unpad_image(padded, size)
    assert bool((inside == 255).all())
    assert abs(inside.numel() - int((padded == 255).sum())) <= 2 * 96
    assert llava_arch.unpad_image is unpad_image


def test_auto_upgrade_lets_a_llava_pass_and_names_what_an_old_config_lacks(checkpoints, tmp_path):
    auto_upgrade(str(checkpoints()))
    old = tmp_path / "llava-7b-v0"
    old.mkdir()
    (old / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(InputError, match=r"set model_type, now 'llama', to \"llava\""):
        auto_upgrade(old)


def test_generate_takes_embeddings_in_place_of_ids(model_and_image):
    model, image = model_and_image
    short = torch.tensor([[1, 20, 30]])
    expected = model.generate(short, **GREEDY)
    embeds = model.get_input_embeddings()(short)
    assert model.generate(inputs_embeds=embeds, **GREEDY).tolist() == expected.tolist()
    padded = torch.cat([torch.zeros_like(embeds), embeds], dim=1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1]])
    assert model.generate(inputs_embeds=padded, attention_mask=mask, **GREEDY).tolist() == expected.tolist()
    of_ids = model.generate(PROMPT, **image, visual_token_num=8, **GREEDY)
    prompts = model.embed_prompts(PROMPT, None, None, image["images"], None, "left", Settings(8))
    assert model.generate(inputs_embeds=prompts.inputs_embeds, **GREEDY).tolist() == of_ids.tolist()


def test_embeddings_that_would_be_misread_are_refused(model_and_image):
    model, image = model_and_image
    embeds = model.get_input_embeddings()(torch.tensor([[1, 20, 30]]))
    for given, message in (
        ({}, "either token ids"),
        ({"inputs": torch.tensor([[1]]), "inputs_embeds": embeds}, "either token ids"),
        ({"inputs_embeds": embeds, **image}, "images go with input_ids"),
        ({"inputs_embeds": embeds, "attention_mask": torch.tensor([[1, 1, 0]])}, "padded on the left"),
        ({"inputs_embeds": embeds, "attention_mask": torch.ones(1, 4)}, r"attention_mask has shape \(1, 4\)"),
        ({"inputs_embeds": embeds.expand(1, 3, -1).repeat(1, 3000, 1)}, "longer than the context"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(**given, **GREEDY)


def test_modalities_other_than_images_are_refused_by_name(model_and_image):
    model, image = model_and_image
    expected = model.generate(PROMPT, **image, **GREEDY).tolist()
    for modalities in (["image"], "image", None):
        assert model.generate(PROMPT, **image, modalities=modalities, **GREEDY).tolist() == expected
    assert model(PROMPT, **image, modalities=["image"]).logits.shape[1] == 5 + 144
    for call in (model, lambda *args, **kwargs: model.generate(*args, **kwargs, **GREEDY)):
        with pytest.raises(InputError, match="this model takes 'image' alone, not 'video'"):
            call(PROMPT, **image, modalities=["image", "video"])


def test_attention_maps_need_the_kernel_that_has_them(checkpoints, model_and_image):
    model, image = model_and_image
    with pytest.raises(InputError, match="output_attentions needs attn_implementation='eager': sdpa"):
        model(PROMPT, **image, output_attentions=True)
    _, eager, *_ = load(checkpoints(), attn_implementation="eager")
    maps = eager(PROMPT, **image, visual_token_num=8, output_attentions=True).attentions
    assert maps[0].shape[-2:] == (13, 13)


def test_pixels_that_lost_bits_are_warned_of_once(checkpoints, model_and_image, caplog):
    _, image = model_and_image
    _, model, *_ = load(checkpoints())
    half = {"images": image["images"].half()}
    model(PROMPT, **half)
    model(PROMPT, **image, visual_token_num=8)
    assert not caplog.records
    for _ in range(2):
        model(PROMPT, **half, visual_token_num=8)
    assert [record.getMessage() for record in caplog.records] == [
        "pixels of float16 for a vision tower of float32: other visual tokens may be kept than of float32 pixels"
    ]
    caplog.clear()
    model.to(torch.bfloat16)(PROMPT, **half, visual_token_num=8)
    assert not caplog.records


def test_a_loaded_model_moves_as_a_whole(checkpoints, model_and_image):
    """What VLMEvalKit does: load on the CPU, then move."""
    _, image = model_and_image
    _, model, *_ = load(checkpoints(), device_map="cpu")
    tower = model.get_vision_tower()
    model.to(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16} == {tower.dtype}
    assert len(model.generate(PROMPT, **image, visual_token_num=8, **GREEDY)) == 1
    model.to("meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"} == {tower.device.type}


def test_a_language_model_gets_its_vision_side(checkpoints, loaded, tmp_path):
    _, whole, image_processor, _ = loaded()
    tokenizer, model, *_ = load(checkpoints())
    inner = model.get_model()
    projector = {f"model.mm_projector.{name}": t.clone() for name, t in inner.mm_projector.state_dict().items()}
    torch.save(projector, tmp_path / "mm_projector.bin")
    tower = inner.vision_tower.vision_tower_name
    inner.vision_tower = None
    del inner.mm_projector
    arguments = SimpleNamespace(
        vision_tower=tower,
        mm_vision_select_layer=-2,
        mm_vision_select_feature="patch",
        mm_projector_type=model.config.mm_projector_type,
        mm_patch_merge_type="flat",
        pretrain_mm_mlp_adapter=str(tmp_path / "mm_projector.bin"),
        mm_use_im_start_end=True,
        mm_use_im_patch_token=False,
        tune_mm_mlp_adapter=True,
    )
    model.get_model().initialize_vision_modules(arguments)
    images = process_images([picture(seed=3)], image_processor, model.config)
    logits = model(PROMPT, images=images, visual_token_num=8).logits
    torch.testing.assert_close(logits, whole(PROMPT, images=images, visual_token_num=8).logits)
    assert all(parameter.requires_grad for parameter in inner.mm_projector.parameters())
    rows, known = model.get_input_embeddings().weight.clone(), len(tokenizer)
    model.initialize_vision_tokenizer(arguments, tokenizer)
    assert tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"]) == [known, known + 1]
    assert model.config.mm_use_im_start_end
    torch.testing.assert_close(model.get_input_embeddings().weight[known], rows[:known].mean(dim=0))
    torch.testing.assert_close(model.get_input_embeddings().weight[:known], rows[:known])
    assert model.get_input_embeddings().weight.requires_grad


def test_a_vision_side_that_does_not_fit_leaves_the_model_as_it_was(checkpoints, tmp_path):
    _, model, *_ = load(checkpoints())
    inner, config = model.get_model(), model.config.to_dict()
    tower, projector = inner.vision_tower, inner.mm_projector
    weights = {name: tensor.clone() for name, tensor in projector.state_dict().items()}
    torch.save({"model.mm_projector.weight": torch.zeros(3, 3)}, tmp_path / "mm_projector.bin")
    for arguments, message in (
        ({"vision_tower": "./nowhere"}, "nowhere"),
        ({"vision_tower": tower.vision_tower_name, "mm_vision_select_layer": 99}, "99 is outside"),
        (
            {"vision_tower": tower.vision_tower_name, "pretrain_mm_mlp_adapter": tmp_path / "mm_projector.bin"},
            "does not fit the model",
        ),
    ):
        with pytest.raises(InputError, match=message):
            inner.initialize_vision_modules(SimpleNamespace(**arguments))
        assert model.config.to_dict() == config
        assert inner.vision_tower is tower and inner.mm_projector is projector
        assert all(torch.equal(weights[name], tensor) for name, tensor in projector.state_dict().items())
