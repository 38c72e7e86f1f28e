"""Where the tokens of crops stand: the index that each has in the unpruned sequence, found there or by hand."""

from dataclasses import replace

import pytest
import torch

from llava.model.anyres import count_merged_tokens
from llava.pruning import Settings
from llava.vision.pixels import process_images
from tests.conftest import picture

LAYOUTS = [
    (merge_type, ratio, size)
    for merge_type in ("flat", "spatial", "spatial_unpad")
    for ratio in ("anyres", "anyres_max_2")
    for size in ((300, 200), (100, 400), (64, 64), (500, 90))
]


@pytest.mark.parametrize(("merge_type", "ratio", "size"), LAYOUTS)
def test_places_of_crops_are_those_of_the_unpruned_sequence(loaded, monkeypatch, merge_type, ratio, size):
    """Found there by their values; where the large picture is shrunk, by row and column."""
    _, model, image_processor, _ = loaded("v1.6", mm_patch_merge_type=merge_type)
    monkeypatch.setattr(model.config, "image_aspect_ratio", ratio)
    pixels = process_images([picture(*size)], image_processor, model.config)
    (unpruned,) = model.embed_images(pixels, [size], Settings())
    side, crops = model.get_vision_tower().num_patches_per_side, len(pixels[0])
    assert count_merged_tokens(size, model.config, side, image_processor) == len(unpruned)
    for per in ("crop", "image"):
        pruning = Settings(20 if per == "crop" else 20 * crops, budget_per=per, positions="original")
        (placed,) = model.embed_images(pixels, [size], pruning)
        (renumbered,) = model.embed_images(pixels, [size], replace(pruning, positions="renumbered"))
        assert torch.equal(placed.tokens, renumbered)
        assert placed.room == len(unpruned)
        if "unpad" in merge_type and ratio == "anyres_max_2" and size != (64, 64):
            kept = model.encode_images(pixels[0], pruning).patches
            assert placed.places.tolist() == places_of_shrunk(kept, size, len(unpruned))
        else:
            assert (placed.places.diff() > 0).all()
            torch.testing.assert_close(placed.tokens, unpruned[placed.places], atol=1e-5, rtol=1e-4)
        (after,) = model.embed_images(pixels, [size], replace(pruning, positions="after"))
        assert (after.places.tolist(), after.room) == (list(range(len(renumbered))), len(unpruned))


def places_of_shrunk(kept: torch.LongTensor, size: tuple[int, int], room: int) -> list[int]:
    """Row by row, in a picture that has at most as many patches as 2 crops of 12 x 12."""
    across, top, bottom, left, right = {
        (300, 200): (2, 4, 20, 0, 24),
        (100, 400): (1, 0, 36, 1, 11),
        (500, 90): (3, 3, 9, 0, 36),
    }[size]
    times = ((bottom - top) * (right - left) / 288) ** 0.5
    height, width = int((bottom - top) / times), int((right - left) / times)
    if times <= 1.1:
        height, width = bottom - top, right - left
    assert room == 144 + height * (width + 1)
    numbers = [crop * 144 * (len(kept) > 1) + patch for crop, own in enumerate(kept.tolist()) for patch in own]
    cells = [(y, right) for y in range(top, bottom)]
    for crop, patch in (divmod(number - 144, 144) for number in numbers if number >= 144):
        cells.append((crop // across * 12 + patch // 12, crop % across * 12 + patch % 12))
    cells = sorted(cell for cell in cells if top <= cell[0] < bottom and left <= cell[1] <= right)
    rest = []
    for y, x in cells:
        column = width if x == right else (x - left) * width // (right - left)
        rest.append(144 + (y - top) * height // (bottom - top) * (width + 1) + column)
    return sorted(number for number in numbers if number < 144) + rest


@pytest.mark.parametrize("merge_type", ["flat", "spatial", "spatial_unpad"])
def test_merged_tokens_of_crops_stand_at_their_patches(loaded, merge_type):
    _, model, image_processor, _ = loaded("v1.6", mm_patch_merge_type=merge_type)
    size, pruning = (300, 200), Settings(20, pruning_method="visionzip", positions="original")
    pixels = process_images([picture(*size)], image_processor, model.config)
    (placed,) = model.embed_images(pixels, [size], pruning)
    (unpruned,) = model.embed_images(pixels, [size], Settings())
    assert placed.room == len(unpruned)
    patches = model.encode_images(pixels[0], pruning).patches
    top, bottom = (4, 20) if merge_type == "spatial_unpad" else (0, 24)  # 300 x 200 leaves a band of 16 of 24 rows
    width = 25 if merge_type == "spatial_unpad" else 24
    expected = []
    for crop, own in enumerate(patches.tolist()):
        for patch in own:
            if crop == 0 or merge_type == "flat":
                expected.append(crop * 144 + patch)
                continue
            y, x = (crop - 1) // 2 * 12 + patch // 12, (crop - 1) % 2 * 12 + patch % 12
            expected.append(144 + (min(max(y, top), bottom - 1) - top) * width + x)
    newline = [len(unpruned) - 1] if merge_type == "spatial_unpad" else []
    assert placed.places.tolist() == expected + newline
