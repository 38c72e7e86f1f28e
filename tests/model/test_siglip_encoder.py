"""The SigLIP tower, and LLaVA-OneVision's way of cutting pictures: a checkpoint of its form, with random weights."""

import logging
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import SiglipConfig, SiglipModel, SiglipVisionModel

from llava.checkpoints.weights import save_checkpoint
from llava.errors import InputError
from llava.inference import Engine, make_request
from llava.inference.memory import most_visual_tokens
from llava.model.anyres import count_merged_tokens
from llava.model.families.qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from llava.model.multimodal_encoder.builder import open_vision_tower
from llava.pruning import Settings
from llava.vision.pixels import process_images
from tests.conftest import load, picture
from tests.hf_checkpoints import write_json
from tests.model.conftest import edit_json

SIDE, WIDTH = 4, 32
VISION = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
VISION |= {"image_size": 14 * SIDE, "patch_size": 14}
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 9,
}
LIKE_ONEVISION = {
    "mm_vision_tower": "siglip",
    "mm_hidden_size": WIDTH,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_patch_merge_type": "spatial_unpad",
    "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
    "image_aspect_ratio": "anyres_max_2",
    "image_grid_pinpoints": "(1x1),...,(3x3)",
}


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A SigLIP folder as it is published, the text side included."""
    folder = tmp_path_factory.mktemp("onevision") / "siglip"
    folder.mkdir()
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)).eval()
    weights = {f"vision_model.{key}": tensor for key, tensor in model.vision_model.state_dict().items()}
    weights |= {f"text_model.{key}": tensor for key, tensor in model.text_model.state_dict().items()}
    weights |= {"logit_scale": model.logit_scale, "logit_bias": model.logit_bias}
    save_file(weights, folder / "model.safetensors")
    model.config.save_pretrained(folder)
    values = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "resample": 3}
    values |= {"size": {"height": 14 * SIDE, "width": 14 * SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_json(folder / "preprocessor_config.json", values | {"image_processor_type": "SiglipImageProcessor"})
    return folder


@pytest.fixture(scope="module")
def onevision(siglip, checkpoints):
    """A checkpoint like LLaVA-OneVision's: Qwen2, its own tower inside, whose later layers and head it lacks."""
    folder = siglip.parent / "llava-onevision-qwen2-tiny"
    source = load(checkpoints("v1.6", "qwen"))
    values = source.model.config.to_dict() | LIKE_ONEVISION | {"mm_vision_tower": str(siglip)}
    torch.manual_seed(1)
    model = LlavaQwenForCausalLM(LlavaQwenConfig.from_dict(values))
    model.model.vision_tower = open_vision_tower(siglip, model.config)
    for weight in model.model.vision_tower.parameters():
        weight.data += 0.01 * torch.randn_like(weight)
    save_checkpoint(model, source.tokenizer, folder, torch.float32)
    edit_json(folder / "config.json", **LIKE_ONEVISION)
    (folder / "siglip").symlink_to(siglip)
    return folder


def tower_of(folder, layer: int, **options):
    return open_vision_tower(folder, SimpleNamespace(mm_vision_select_layer=layer, **options))


@pytest.mark.parametrize("layer", [-2, -1, 2])
def test_features_and_importance_are_those_of_transformers(siglip, layer):
    pixels = torch.randn(3, 3, 14 * SIDE, 14 * SIDE, generator=torch.Generator().manual_seed(2))
    model = SiglipVisionModel.from_pretrained(siglip, attn_implementation="eager").eval()
    out = model(pixels, output_hidden_states=True, output_attentions=True)
    tower = tower_of(siglip, layer)
    views = tower.encode(pixels)
    depth = layer if layer > 0 else 5 + layer
    torch.testing.assert_close(views.features, out.hidden_states[depth])
    torch.testing.assert_close(views.importance, out.attentions[depth - 1].mean(dim=(1, 2)))
    assert torch.equal(tower(pixels), views.features)
    assert (tower.num_patches, tower.hidden_size) == (SIDE**2, WIDTH)
    torch.testing.assert_close(views.importance.sum(dim=1), torch.ones(3))


def test_pixels_are_those_of_transformers(siglip):
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tower, image = tower_of(siglip, -2), picture(41, 57)
    theirs = SiglipImageProcessorPil.from_pretrained(siglip)(image, return_tensors="pt")["pixel_values"]
    ours = process_images([image], tower.image_processor, SimpleNamespace(image_aspect_ratio="square"))
    torch.testing.assert_close(ours, theirs, atol=2.1 / 255, rtol=0)  # the order of resizing rounds differently
    padded = process_images([image], tower.image_processor, SimpleNamespace(image_aspect_ratio="pad"))
    assert padded.shape == ours.shape
    assert padded[0, :, SIDE * 7, 0].abs().max() < 0.02  # 57 - 41 columns of the mean colour
    assert tower.image_processor.crop_size["height"] == 14 * SIDE


def test_another_feature_than_patches_is_refused(siglip):
    with pytest.raises(InputError, match="mm_vision_select_feature of SigLIP must be 'patch', not 'cls_patch'"):
        tower_of(siglip, -2, mm_vision_select_feature="cls_patch")


def test_the_tower_inside_is_used(onevision, caplog):
    with caplog.at_level(logging.WARNING):
        model = load(onevision).model
    assert not caplog.records
    own = SiglipVisionModel.from_pretrained(onevision / "siglip").state_dict()
    inside = model.get_vision_tower().vision_tower.state_dict()
    key = "encoder.layers.2.mlp.fc1.weight"
    assert not torch.equal(inside[key], own[key])
    assert "encoder.layers.3.mlp.fc1.weight" not in inside


def test_a_method_that_compares_with_texts_is_refused_by_name(onevision):
    with pytest.raises(InputError, match="siglip is SigLIP: the pruning method needs a CLIP that has its text tower"):
        load(onevision, pruning_method="cdpruner")


@pytest.mark.parametrize("size", [(160, 150), (60, 50), (300, 60)])
def test_a_large_picture_is_interpolated_as_a_whole(onevision, size):
    loaded = load(onevision)
    model, image = loaded.model, picture(*size)
    pixels = process_images([image], loaded.image_processor, model.config)
    (tokens,) = model.embed_images(pixels, [image.size])
    assert len(tokens) == count_merged_tokens(image.size, model.config, SIDE, loaded.image_processor)
    assert len(tokens) <= most_visual_tokens(model, Settings()) + 3 * SIDE  # and newlines
    crops = torch.stack([model.encode_images(pixel[None]).tokens[0] for pixel in pixels[0]])
    whole, rest = crops[0], crops[1:]
    across, down = {(160, 150): (3, 3), (60, 50): (2, 1), (300, 60): (3, 1)}[size]
    assert len(rest) == across * down
    grid = rest.reshape(down, across, SIDE, SIDE, -1).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)
    width, height = size
    if width / height > across / down:
        cut = (down * SIDE - int(height * (across * SIDE / width))) // 2
        grid = grid[:, cut : down * SIDE - cut]
    else:
        cut = (across * SIDE - int(width * (down * SIDE / height))) // 2
        grid = grid[:, :, cut : across * SIDE - cut]
    _, h, w = grid.shape
    times = (h * w / (2 * SIDE**2)) ** 0.5
    assert (times > 1.1) is (size == (160, 150))
    if times > 1.1:
        grid = nn.functional.interpolate(grid[None], [int(h // times), int(w // times)], mode="bilinear")[0]
    newline = model.model.image_newline[:, None, None].expand(-1, grid.shape[1], 1)
    expected = torch.cat([whole, torch.cat([grid, newline], dim=2).flatten(1).T])
    torch.testing.assert_close(tokens, expected)


def test_a_budget_takes_the_place_of_interpolation(onevision):
    loaded = load(onevision, visual_token_num=3, important_ratio=1)
    image = picture(160, 150)
    pixels = process_images([image], loaded.image_processor, loaded.model.config)[0]
    views = loaded.model.get_vision_tower().encode(pixels[:1])
    chosen = loaded.model.encode_images(pixels)
    assert chosen.patches[0].tolist() == sorted(views.importance[0].topk(3).indices.tolist())
    request = make_request("What is it?", [image], "qwen_1_5", loaded.model.config)
    (answer,) = Engine(loaded).answer([request], max_new_tokens=2)
    rows = 3 * SIDE - 2 * ((3 * SIDE - int(150 * 3 * SIDE / 160)) // 2)
    assert 3 + rows <= answer.num_visual_tokens[0] <= 10 * 3 + rows


def test_methods_that_need_cls_are_refused(onevision):
    loaded = load(onevision, visual_token_num=3, pruning_method="visionzip")
    request = make_request("What is it?", [picture()], "qwen_1_5", loaded.model.config)
    with pytest.raises(InputError, match="this vision tower gives no"):
        list(Engine(loaded).answer([request], max_new_tokens=2))
