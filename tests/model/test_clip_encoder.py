"""The CLIP tower: the features LLaVA reads, and the [CLS] row that pruning reads."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import CLIPVisionModel

from llava.errors import InputError
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector


def tower_of(folder, layer: int = -2, feature: str = "patch", **options) -> CLIPVisionTower:
    args = SimpleNamespace(mm_vision_select_layer=layer, mm_vision_select_feature=feature)
    tower = CLIPVisionTower(folder, args, delay_load=True)
    tower.load_model(**options)
    return tower


@pytest.fixture
def clip_folder(checkpoints):
    return checkpoints().parent / "clip-vit-tiny-random"


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 168, 168, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", [-1, -2, -4, 1, 3])
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_features_and_cls_row_are_those_of_full_eager_attention(clip_folder, pixels, layer, attn_implementation):
    tower = tower_of(clip_folder, layer, attn_implementation=attn_implementation)
    eager = tower_of(clip_folder, layer, attn_implementation="eager").vision_tower
    assert isinstance(eager, CLIPVisionModel)
    full = eager(pixels, output_hidden_states=True, output_attentions=True)
    features, cls_attention = tower(pixels, output_attentions=True)
    hidden = full.hidden_states[layer]
    attention = full.attentions[layer - 1 if layer > 0 else layer]
    torch.testing.assert_close(features, hidden[:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cls_attention, attention[:, :, 0, 1:], rtol=1e-4, atol=1e-7)
    assert torch.equal(tower(pixels), features)


def test_the_cls_row_sums_to_what_cls_leaves_to_the_patches(clip_folder, pixels):
    _, cls_attention = tower_of(clip_folder)(pixels, output_attentions=True)
    assert cls_attention.shape == (2, 4, 144)
    assert (cls_attention.sum(-1) < 1).all()
    assert cls_attention.std() > 1e-4


def test_layers_behind_the_selected_one_do_not_run(clip_folder, pixels):
    tower = tower_of(clip_folder)
    ran = []
    for i, layer in enumerate(tower.vision_tower.encoder.layers):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    tower(pixels, output_attentions=True)
    assert ran == [0, 1, 2]


def test_a_list_is_encoded_image_by_image(clip_folder, pixels):
    tower = tower_of(clip_folder)
    both = tower(list(pixels))
    assert [x.shape for x in both] == [(1, 144, 64)] * 2
    torch.testing.assert_close(torch.cat(both), tower(pixels))


def test_cls_patch_keeps_the_cls_token_in_front(clip_folder, pixels):
    features = tower_of(clip_folder, feature="cls_patch")(pixels)
    assert features.shape == (2, 145, 64)
    torch.testing.assert_close(features[:, 1:], tower_of(clip_folder)(pixels))


def test_bfloat16_runs_and_its_attention_is_compared_in_float32(clip_folder, pixels):
    features, cls_attention = tower_of(clip_folder, dtype=torch.bfloat16)(pixels, output_attentions=True)
    assert features.dtype is torch.bfloat16
    assert cls_attention.dtype is torch.float32


def test_the_tower_is_frozen(clip_folder, pixels):
    tower = tower_of(clip_folder)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower(pixels.requires_grad_()).requires_grad


def test_sizes_are_known_before_weights_are_loaded(clip_folder):
    tower = CLIPVisionTower(clip_folder, SimpleNamespace(mm_vision_select_layer=-2), delay_load=True)
    assert not tower.is_loaded
    assert (tower.hidden_size, tower.num_patches, tower.num_patches_per_side) == (64, 144, 12)
    assert not list(tower.parameters())


@pytest.mark.parametrize("layer", [0, 5, -5])
def test_a_layer_that_the_tower_lacks_is_refused(clip_folder, layer):
    with pytest.raises(InputError, match="mm_vision_select_layer"):
        tower_of(clip_folder, layer)


def test_the_projectors_have_the_layers_their_names_say():
    def kinds(name: str) -> list[type]:
        config = SimpleNamespace(mm_projector_type=name, mm_hidden_size=8, hidden_size=4)
        return [type(module) for module in build_vision_projector(config).modules()]

    assert kinds("linear") == [nn.Linear]
    assert kinds("identity") == [nn.Identity]
    for depth in (1, 2, 3):
        assert kinds(f"mlp{depth}x_gelu") == [nn.Sequential, nn.Linear, *[nn.GELU, nn.Linear] * (depth - 1)]
    with pytest.raises(InputError, match="qformer"):
        kinds("qformer")
