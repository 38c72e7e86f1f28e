"""A ViT of DINOv2's kind as a CLIP tower: it computes the same, and what does not fit is refused."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from docs.examples.photographs.convert_vit import VitTower, to_clip, write_folder
from docs.examples.photographs.measure import (
    kept_patches,
    largest_difference,
    load_tower,
    pixels_of,
    shuffled_tower,
    views_of,
)
from llava.errors import InputError
from llava.model.multimodal_encoder.builder import open_vision_tower
from llava.pruning import Settings
from llava.pruning.methods.vispruner import METHOD as VISPRUNER_METHOD
from tests.conftest import picture

LAYERS = 3


def random_vit(**options) -> Dinov2Model:
    """A small ViT of 6 x 6 patches, none of whose weights is 0 or 1 everywhere as in a new one."""
    config = Dinov2Config(
        hidden_size=128,
        num_attention_heads=2,
        num_hidden_layers=LAYERS,
        image_size=84,
        patch_size=14,
        attn_implementation="eager",
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Dinov2Model(config).eval().requires_grad_(False)
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    return model


def published(model: Dinov2Model, folder: Path) -> dict[str, torch.Tensor]:
    """Its weights as a checkpoint's file has them: in memory, newer versions of transformers have other names."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def vit() -> Dinov2Model:
    return random_vit()


@pytest.fixture(scope="module")
def weights(vit, tmp_path_factory) -> dict[str, torch.Tensor]:
    return published(vit, tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    write_folder(weights, folder)
    return folder


@pytest.fixture(scope="module")
def seen(vit, folder):
    """Two pictures as pixels, and what the ViT itself makes of them."""
    pixels = two_pictures(folder)
    return pixels, vit(pixels, output_hidden_states=True, output_attentions=True)


def two_pictures(folder: Path) -> torch.Tensor:
    tower = load_tower(folder, -1)
    return torch.cat([pixels_of(picture(seed=seed), tower) for seed in range(2)])


def test_hidden_states_and_cls_attention_are_the_vits(vit, weights, tmp_path):
    # In float64, where nothing but a wrong formula makes a difference of more than 1e-10.
    write_folder({name: tensor.double() for name, tensor in weights.items()}, tmp_path)
    pixels = two_pictures(tmp_path).double()
    expected = deepcopy(vit).double()(pixels, output_hidden_states=True, output_attentions=True)
    tower = VitTower(tmp_path, SimpleNamespace(mm_vision_select_layer=-1), delay_load=True)
    tower.load_model(dtype=torch.float64)
    for layer in range(1, LAYERS + 1):
        tower.select_layer = layer
        views = tower.encode(pixels)
        states = expected.hidden_states[layer]
        assert states.std() > 1
        torch.testing.assert_close(views.hidden_states, states, rtol=1e-10, atol=1e-10)
        attention = expected.attentions[layer - 1][:, :, 0, 1:].mean(dim=1).float()
        assert attention.std() > 0.1 * attention.mean()  # weights that attend to all patches alike would prove nothing
        torch.testing.assert_close(views.importance, attention, rtol=1e-5, atol=1e-8)


def test_pixels_are_normalised_by_imagenets_mean_and_deviation(folder):
    tower = load_tower(folder, -1)
    pixels = pixels_of(Image.new("RGB", (30, 30), (124, 116, 255)), tower)
    assert pixels.shape == (1, 3, 84, 84)
    expected = torch.tensor([124 / 255 - 0.485, 116 / 255 - 0.456, 1 - 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels[0, :, 40, 40], expected, rtol=1e-4, atol=1e-4)


def test_the_clip_tower_itself_refuses_the_folder(folder):
    with pytest.raises(InputError, match=r"missing pre_layrnorm\.bias, pre_layrnorm\.weight"):
        open_vision_tower(folder, SimpleNamespace(mm_vision_select_layer=-1))


def test_weights_that_are_missing_or_have_no_place_are_named(weights, tmp_path):
    with pytest.raises(InputError, match=r"no encoder\.layer\.1\.layer_scale2\.lambda1"):
        to_clip({name: value for name, value in weights.items() if name != "encoder.layer.1.layer_scale2.lambda1"})
    with pytest.raises(InputError, match=r"no place for: embeddings\.register_tokens"):
        to_clip(weights | {"embeddings.register_tokens": torch.zeros(1, 4, 128)})
    with pytest.raises(InputError, match=r"no encoder\.layer\.0\.mlp\.fc1"):
        to_clip(published(random_vit(use_swiglu_ffn=True), tmp_path))


def test_patches_that_are_no_square_are_refused(weights, tmp_path):
    positions = weights["embeddings.position_embeddings"]
    with pytest.raises(InputError, match="35 patches of 128 channels"):
        write_folder(weights | {"embeddings.position_embeddings": positions[:, :-1]}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_tower_that_is_not_its_graph_is_found_out(folder, seen):
    pixels, expected = seen
    states, attention = [state.numpy() for state in expected.hidden_states[1:]], expected.attentions[-1].numpy()
    tower = load_tower(folder, -1)
    of_states, of_attention = largest_difference(tower, pixels, states, attention)
    assert 0 < of_states < 1e-4
    assert 0 < of_attention < 1e-4
    assert tower.select_layer == -1

    wrong = states[1].copy()
    wrong[1, 3, 5] += 0.01 * np.sqrt(np.square(wrong).mean())
    with pytest.raises(InputError, match=r"layer 2 differs from the ONNX graph's by 1\.0e-02, more than 1e-03"):
        largest_difference(tower, pixels, [states[0], wrong, states[2]], attention)
    with pytest.raises(InputError, match=r"the \[CLS\] attention differs"):
        largest_difference(tower, pixels, states, attention[:, :, ::-1])
    with pytest.raises(InputError, match="layer 1 differs"):
        largest_difference(tower, pixels, [np.full_like(states[0], np.nan), *states[1:]], attention)


def test_every_method_that_needs_pictures_alone_keeps_patches(folder):
    views = views_of(picture(), load_tower(folder, -1))
    kept, left_out = kept_patches(views, 8)
    assert {"vispruner", "fastervlm", "divprune", "scope", "holov", "random"} <= kept.keys()
    assert list(kept)[-1] == "random"
    assert all(len(set(patches)) == 8 and patches.max() < 36 for patches in kept.values())
    assert left_out.keys() >= {"fastv", "visionzip", "cdpruner", "mmtok"}
    assert not left_out.keys() & kept.keys()
    important = set(VISPRUNER_METHOD.important(views, Settings(8))[0].tolist())
    assert len(important) == 4
    assert important <= set(kept["vispruner"]) & set(kept["fastervlm"])


def test_shuffled_weights_are_the_same_values_in_another_order_by_seed(folder):
    name = "encoder.layers.1.self_attn.q_proj.weight"
    own = load_tower(folder, -1).vision_tower.state_dict()[name]
    first, again, other = (shuffled_tower(folder, -1, seed).vision_tower.state_dict()[name] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, own)
    assert torch.equal(first.flatten().sort().values, own.flatten().sort().values)
