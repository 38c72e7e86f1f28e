"""Long pictures come to the tower's size without the memory of their squares, and with the same pixels."""

import resource
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from llava.errors import InputError
from llava.model.multimodal_encoder.clip_encoder import CLIPTowerImageProcessor
from llava.vision.pixels import expand2square, process_images
from tests.conftest import picture

LONG = [(1, 30), (2000, 1), (1, 2000), (21, 800), (800, 21), (350, 801)]
SIZES = [(640, 480), (480, 640), (336, 336), (100, 336), (337, 336), (1, 1), (3, 2), (1537, 911), *LONG]


def make(side: int = 336, **options) -> CLIPTowerImageProcessor:
    return CLIPTowerImageProcessor(**{"size": {"shortest_edge": side}, "crop_size": side} | options)


def config(aspect_ratio: str | None) -> SimpleNamespace:
    return SimpleNamespace(image_aspect_ratio=aspect_ratio, image_grid_pinpoints=[[672, 336]])


def as_upstream(image: Image.Image, processor, aspect_ratio: str | None) -> torch.Tensor:
    color = tuple(int(x * 255) for x in processor.image_mean)
    square = expand2square(image, color) if aspect_ratio == "pad" else image
    return processor.preprocess(square, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("aspect_ratio", ["pad", None])
@pytest.mark.parametrize(
    "processor",
    [
        make(),
        make(168, resample=Image.Resampling.LANCZOS),
        make(224, resample=Image.Resampling.BILINEAR),
        make(168, resample=Image.Resampling.NEAREST),
        make(168, crop_size=100),
        make(100, crop_size=168),
        make(size={"height": 168, "width": 168}, crop_size=168),
    ],
)
def test_pixels_are_those_of_the_whole_square_bit_for_bit(processor, aspect_ratio, monkeypatch):
    monkeypatch.setattr("llava.vision.pixels._STRIP", 2**14)  # several strips for each of these
    noise = np.random.default_rng(0)
    for width, height in SIZES:
        if aspect_ratio is None and max(width, height) > 40 * min(width, height):
            continue
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        pixels = process_images([image], processor, config(aspect_ratio))
        assert torch.equal(pixels, as_upstream(image, processor, aspect_ratio)), (width, height)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize(
    ("size", "aspect_ratio"), [((300, 12_000), "pad"), ((12_000, 300), "pad"), ((30, 12_000), None)]
)
def test_a_long_picture_takes_little_memory(size, aspect_ratio):
    image = Image.new("RGB", size, "red")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert process_images([image], make(), config(aspect_ratio)).shape == (1, 3, 336, 336)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("size", [(1, 65_535), (65_535, 1), (700, 65_535)])
def test_the_longest_pictures_are_resized_as_a_line_of_their_square(size):
    """Of one colour, all lines of the square are the same along it."""
    side, across = max(size), min(size)
    line = Image.new("RGB", (side, 1), (122, 116, 104))
    line.paste("red", ((side - across) // 2, 0, (side - across) // 2 + across, 1))
    row = np.asarray(line.resize((336, 1), Image.Resampling.BICUBIC))
    square = Image.fromarray(row.repeat(336, axis=0))
    expected = make().preprocess(
        square if size[1] == side else square.transpose(Image.Transpose.TRANSPOSE), return_tensors="pt"
    )
    assert torch.equal(process_images([Image.new("RGB", size, "red")], make(), config("pad")), expected["pixel_values"])


def test_what_would_take_too_much_is_refused():
    with pytest.raises(InputError, match="300 x 14000 pixels would become 196000000 on the way"):
        process_images([Image.new("RGB", (300, 14_000))], make(resample=Image.Resampling.LANCZOS), config("pad"))
    with pytest.raises(InputError, match="1 x 3000000 pixels, but a side has at most 65535"):
        process_images([Image.new("RGB", (1, 3_000_000))], make(), config("pad"))
    for processor, aspect_ratio in ((make(crop_size=300), "pad"), (make(crop_size=300), None), (make(), None)):
        with pytest.raises(InputError, match=r"10 x 40000 pixels would become \d+ on the way"):
            process_images([Image.new("RGB", (10, 40_000))], processor, config(aspect_ratio))


@pytest.mark.parametrize("aspect_ratio", ["pad", None, "anyres"])
@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "CMYK", "RGBA", "I;16", "I", "F"])
def test_pictures_that_are_not_rgb_are_converted_first(mode, aspect_ratio):
    if mode in ("I;16", "I", "F"):
        values = np.asarray(picture().convert("L")).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
        image, rgb = Image.fromarray(values * 257), picture().convert("L").convert("RGB")
    else:
        image = picture().convert(mode)
        rgb = image.convert("RGB")
    assert torch.equal(*(process_images([one], make(), config(aspect_ratio)) for one in (image, rgb)))
