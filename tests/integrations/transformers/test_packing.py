"""Hosts that put crops together: where each patch goes, with the padding cut off and large pictures scaled down."""

import math

import pytest
import torch
from host_cases import CASES, IMAGE, PAD, START, normal

from llava.integrations.transformers import prune
from llava.integrations.transformers.budget import Budget
from llava.integrations.transformers.hosts import find_host
from llava.integrations.transformers.prompts import kept_places
from llava.model.anyres import merge_crops
from llava.pruning import keep_patches, select_visual_tokens
from llava.vision.grids import get_anyres_image_grid_shape

BY_NAME = {case.name: case for case in CASES}
SIDE, PATCHES = 56, 4  # of a crop, in pixels and in patches
GREEDY = {"max_new_tokens": 6, "do_sample": False}


def encode(model, size: tuple[int, int], crops: int):
    """The host's picture of (height, width) pixels."""
    pixels = normal(torch.Generator().manual_seed(sum(size)), 1, crops, 3, SIDE, SIDE)
    given = {"pixel_values": pixels, "image_sizes": torch.tensor([size])}
    ((token, (part,)), *_) = find_host(model).split(model, given)
    (picture,) = find_host(model).encode(model, token, part)
    return picture


@torch.no_grad()
@pytest.mark.parametrize("size", [(112, 112), (100, 60), (61, 100), (50, 200), (333, 90), (57, 56), (40, 31)])
def test_what_is_left_of_a_picture_is_what_the_package_makes_of_it(size):
    """`llava.model.anyres.merge_crops` knows nothing of placeholders: it sorts kept tokens by row and column."""
    model = BY_NAME["llava_next"].model()
    pinpoints = model.config.image_grid_pinpoints
    across, down = get_anyres_image_grid_shape(size[::-1], [grid[::-1] for grid in pinpoints], SIDE)
    picture = encode(model, size, 1 + across * down)
    kept = select_visual_tokens(picture.views.features, picture.views.importance, 5)
    tokens = model.model.multi_modal_projector(keep_patches(picture.views.features, kept))
    expected = merge_crops(tokens, kept, (across, down), PATCHES, size[::-1], model.model.image_newline)
    left = picture.tokens[kept_places(picture, Budget.from_options(5))]
    torch.testing.assert_close(left, expected)


@torch.no_grad()
@pytest.mark.parametrize("grid", [(6, 6), (4, 5), (6, 2), (2, 6)])
def test_a_token_that_is_scaled_down_is_that_of_the_nearest_patch(grid):
    model = BY_NAME["onevision image"].model()
    down, across = grid
    picture = encode(model, (down * SIDE, across * SIDE), 1 + down * across)
    rows, columns = down * PATCHES, across * PATCHES
    ratio = math.sqrt(rows * columns / (9 * PATCHES**2))
    height, width = (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)
    assert len(picture.tokens) == PATCHES**2 + height * (width + 1)
    assert torch.equal(picture.places[0], torch.arange(PATCHES**2))
    found = {}
    for crop, patch in (picture.places[1:] >= 0).nonzero().tolist():
        place = int(picture.places[1 + crop, patch]) - PATCHES**2
        y, x = crop // across * PATCHES + patch // PATCHES, crop % across * PATCHES + patch % PATCHES
        row, column = divmod(place, width + 1)
        assert abs((row + 0.5) * rows / height - 0.5 - y) <= 0.5 + 1e-4
        assert abs((column + 0.5) * columns / width - 0.5 - x) <= 0.5 + 1e-4
        found[row, column] = True
    assert set(found) == {(row, column) for row in range(height) for column in range(width)}


@torch.no_grad()
def test_newlines_stay_and_fewer_tokens_do_where_a_picture_is_scaled_down():
    model = BY_NAME["onevision image"].model()
    picture = encode(model, (6 * SIDE, 6 * SIDE), 37)
    keep = kept_places(picture, Budget.from_options(4))
    patches = picture.places[picture.places >= 0]
    others = torch.ones(len(picture.tokens), dtype=torch.bool)
    others[patches] = False
    assert int(others.sum()) == 12
    assert keep[others].all()
    assert keep[: PATCHES**2].sum() == 4
    assert 0 < keep[PATCHES**2 :][~others[PATCHES**2 :]].sum() < 36 * 4


def test_several_images_of_a_prompt_are_one_crop_each():
    case = BY_NAME["onevision image"]
    model, generator = case.model(), torch.Generator().manual_seed(3)
    one = [IMAGE] * (PATCHES**2 + 1)
    ids = [[START, 9, *one, 8, *one, 7, 6], [START, 5, *[IMAGE] * (16 + 8 * 5), 7]]
    longest = max(map(len, ids))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in ids])
    pixels, sizes = normal(generator, 3, 3, 3, SIDE, SIDE), torch.tensor([[112, 56]] * 3)
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "pixel_values": pixels, "image_sizes": sizes}
    inputs["batch_num_images"] = torch.tensor([2, 1])
    first = {"input_ids": ids[:1, longest - 39 :], "pixel_values": pixels[:2], "image_sizes": sizes[:2]}
    first["batch_num_images"] = torch.tensor([2])
    last = {"input_ids": ids[1:], "pixel_values": pixels[2:], "image_sizes": sizes[2:]}
    prune(model, 4)
    answers = model.generate(**inputs, **GREEDY)[:, longest:]
    assert torch.equal(answers[:1], model.generate(**first, **GREEDY)[:, 39:])
    assert torch.equal(answers[1:], model.generate(**last, **GREEDY)[:, longest:])
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    logits = model.bfloat16()(**half).logits  # all pictures in one batch
    assert logits.shape[1] == max(6 + 2 * 5, 3 + 4 + 8 + 8)
