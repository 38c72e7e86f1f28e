"""The pruning methods, all through one interface; tests/reference has each against its authors' own results."""

import pytest
import torch

from llava.pruning import METHOD_NAMES, Settings, VisualTokens, load_method
from llava.pruning.method import NONE
from llava.vision.pixels import process_images
from tests.conftest import IMAGE, ask, count_visual_tokens, load, picture

BEFORE = [name for name in METHOD_NAMES if Settings(16, pruning_method=name).prunes_before_decoder]


@pytest.mark.parametrize("method", BEFORE)
@pytest.mark.parametrize("budget", [1, 16, 143, 144, 1000, None])
def test_every_method_keeps_its_budget(loaded, method, budget):
    llava = loaded()
    llava[1].visual_token_num, llava[1].pruning_method = budget, method
    images = [picture(seed=i) for i in range(3)]
    kept = 132 if (method, budget) == ("pool", 143) else min(budget or 144, 144)  # 11 x 12: no grid has 143 cells
    assert count_visual_tokens(llava, [IMAGE, f"{IMAGE}{IMAGE}"], images) == [kept] * 3
    assert len(ask(llava, [IMAGE, f"{IMAGE}{IMAGE}"], images, new=1)) == 2


@pytest.mark.parametrize("method", BEFORE)
def test_kept_patches_are_ascending_and_are_projected_themselves(loaded, method):
    _, model, image_processor, _ = loaded()
    pixels = image_processor([picture(seed=i) for i in range(2)], return_tensors="pt").pixel_values
    everything = model.encode_images(pixels).tokens
    assert everything.shape[1] == 144
    model.visual_token_num, model.pruning_method = 20, method
    chosen = model.encode_images(pixels)
    tokens = chosen.tokens
    assert tokens.shape == (2, 20, everything.shape[-1])
    if isinstance(chosen, VisualTokens):
        kept = chosen.patches
        assert (kept.diff(dim=1) > 0).all()
        expected = everything.gather(1, kept.unsqueeze(-1).expand(-1, -1, everything.shape[-1]))
        torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("version", "newlines"), [("v1.5", 0), ("v1.6", 1)])
def test_pool_is_the_mean_of_what_the_language_model_would_see(loaded, version, newlines):
    _, model, image_processor, _ = loaded(version)
    pixels, sizes = process_images([picture()], image_processor, model.config), [(200, 150)]
    pooled = Settings(16, pruning_method="pool")
    (tokens,) = model.embed_images(pixels, sizes, pooled)
    crops = model.encode_images(pixels.flatten(0, -4), Settings()).tokens
    cells = crops.unflatten(1, (4, 3, 4, 3)).mean(dim=(2, 4)).flatten(0, 2)
    torch.testing.assert_close(tokens[: len(tokens) - newlines], cells, atol=1e-6, rtol=1e-5)
    ids = torch.tensor([[1, -200, 7, 8]])
    given = {"images": pixels, "image_sizes": sizes, "labels": ids.clamp(min=0), "pruning": pooled}
    model.train()
    try:
        model(ids, **given).loss.backward()
        assert all(weight.grad.abs().max() > 0 for weight in model.model.mm_projector.parameters())
    finally:
        model.eval()
        model.zero_grad()


def test_methods_choose_differently(loaded):
    _, model, image_processor, _ = loaded()
    pixels = image_processor([picture()], return_tensors="pt").pixel_values
    model.visual_token_num = 20
    chosen = []
    for method in BEFORE:
        model.pruning_method = method
        chosen.append(model.encode_images(pixels).tokens)
    for i, first in enumerate(chosen):
        assert all((first - second).abs().max() > 1e-3 for second in chosen[:i])


def test_none_keeps_everything_whatever_the_budget(loaded):
    llava = loaded()
    llava[1].visual_token_num, llava[1].pruning_method = 16, NONE
    assert count_visual_tokens(llava, [IMAGE], [picture()]) == [144]


def test_random_patches_depend_on_picture_and_seed_alone(loaded):
    _, model, image_processor, _ = loaded()
    pixels = image_processor([picture(seed=i) for i in range(3)], return_tensors="pt").pixel_values
    model.visual_token_num, model.pruning_method = 16, "random"
    together = model.encode_images(pixels).patches
    alone = model.encode_images(pixels[1:2]).patches
    assert together[1].tolist() == alone[0].tolist()
    assert together[0].tolist() != together[1].tolist()
    model.pruning_seed = 1
    other = model.encode_images(pixels).patches
    assert other.tolist() != together.tolist()


@pytest.mark.parametrize("method", BEFORE)
def test_crops_are_joined_for_every_method(loaded, method):
    for merge_type, newlines in (("spatial", 0), ("spatial_unpad", 1)):
        llava = loaded("v1.6", mm_patch_merge_type=merge_type, image_grid_pinpoints=[[336, 336]])
        llava[1].visual_token_num, llava[1].pruning_method = 16, method
        expected = 5 * 16 + newlines * (1 if load_method(method).merges else 24)
        assert count_visual_tokens(llava, [IMAGE], [picture(300, 300)]) == [expected]


def test_a_model_is_loaded_with_its_method(checkpoints):
    model = load(checkpoints(), visual_token_num=8, pruning_method="random", pruning_seed=3)[1]
    assert (model.pruning_method, model.pruning_seed) == ("random", 3)
    with pytest.raises(ValueError, match="pruning_method must be one of"):
        load(checkpoints(), pruning_method="tome")
