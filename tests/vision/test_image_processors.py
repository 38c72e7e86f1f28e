"""Pixels with image processors that a client brings along, as upstream's callers write it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessor, LlavaNextImageProcessor, SiglipImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.errors import InputError
from llava.vision.pixels import process_anyres_image, process_images
from llava.vision.processors import CLIPTowerImageProcessor
from tests.conftest import ROOT, picture
from tests.data import plain_inputs
from tests.data.make_cases import GRID, SIDE

CLIP = ROOT / "playground" / "checkpoints" / "clip-vit-tiny-patch14-168"
SIZES = [(300, 150), (90, 160), (SIDE, SIDE)]  # none shrinks more in height, which Pillow 13 does in another order


class Own(CLIPImageProcessorPil):
    """A processor of a client's own."""


class OfTorchvision:
    """What stands for transformers' processor over torchvision, which is not here: its values, and no pixels."""

    __module__ = "transformers.models.clip.image_processing_clip"

    def to_dict(self) -> dict:
        return CLIPImageProcessor.from_pretrained(CLIP).to_dict() | {"data_format": "channels_first", "device": None}


CLIPS = {
    "CLIPImageProcessor": lambda: CLIPImageProcessor.from_pretrained(CLIP),
    "AutoImageProcessor": lambda: AutoImageProcessor.from_pretrained(CLIP),
    "of torchvision": OfTorchvision,
    "of LLaVA-NeXT": lambda: LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE),
    "a client's own": lambda: Own.from_pretrained(CLIP),
    "the tower's": lambda: CLIPTowerImageProcessor.from_pretrained(CLIP),
}


def config(aspect_ratio: str | None) -> SimpleNamespace:
    return SimpleNamespace(image_aspect_ratio=aspect_ratio, image_grid_pinpoints=GRID)


def close(pixels: torch.Tensor, plainly: np.ndarray) -> None:
    torch.testing.assert_close(pixels, torch.from_numpy(plainly).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CLIPS)
def test_pixels_of_a_clip_processor_are_upstream_s(name):
    if name == "AutoImageProcessor" and type(AutoImageProcessor).__name__ == "DummyObject":
        pytest.skip("this release of transformers has no AutoImageProcessor without torchvision")
    processor = CLIPS[name]()
    for width, height in SIZES:
        drawn = plain_inputs.drawing(width, height)
        image = Image.fromarray(drawn)
        close(process_images([image], processor, config("pad")), plain_inputs.pad(drawn, SIDE))
        crops = plain_inputs.anyres(drawn, SIDE, GRID)
        close(process_images([image], processor, config("anyres"))[0], crops)
        close(process_anyres_image(image, processor, GRID), crops)
    square = plain_inputs.drawing(SIDE, SIDE)
    close(process_images([Image.fromarray(square)] * 2, processor, config(None))[1:], plain_inputs.pad(square, SIDE))
    wide = plain_inputs.drawing(2 * SIDE, SIDE)
    central = wide[:, SIDE // 2 : SIDE // 2 + SIDE]
    close(process_images([Image.fromarray(wide)], processor, config("square")), plain_inputs.pad(central, SIDE))


@pytest.mark.parametrize("aspect_ratio", ["pad", None, "anyres"])
def test_pixels_of_a_siglip_processor_are_the_picture_at_the_tower_s_size(aspect_ratio):
    processor = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    drawn = plain_inputs.drawing(200, 150)
    square = drawn
    if aspect_ratio == "pad":
        square = np.full((200, 200, 3), 127, dtype=np.uint8)  # int(0.5 * 255)
        square[25:175] = drawn
    image = Image.fromarray(square).resize((SIDE, square.shape[0]), Image.Resampling.BICUBIC)
    image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    plainly = (np.asarray(image).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    pixels = process_images([Image.fromarray(drawn)], processor, config(aspect_ratio))
    close(pixels[0, 0] if aspect_ratio == "anyres" else pixels[0], plainly)
    assert pixels.shape[-2:] == (SIDE, SIDE)


def test_the_sizes_of_a_processor_are_its_own():
    for processor in (CLIPImageProcessor(size=112, crop_size=112), CLIPImageProcessor(size=150, crop_size=112)):
        assert process_images([picture()], processor, config("pad")).shape == (1, 3, 112, 112)


@pytest.mark.parametrize("given", [None, "CLIPImageProcessor", torch.nn.Identity(), {"size": 336}])
def test_what_is_no_image_processor_is_named(given):
    with pytest.raises(InputError, match=f"{type(given).__name__} is no image processor"):
        process_images([picture()], given, config("pad"))
