"""Pictures into pixels, and the helpers around prompts."""

import base64

import pytest
import torch
from PIL import Image

from llava.checkpoints.folders import get_model_name_from_path
from llava.errors import InputError
from llava.upstream.generation import KeywordsStoppingCriteria, load_image_from_base64
from llava.vision.grids import get_anyres_image_grid_shape, select_best_resolution
from llava.vision.pictures import load_image
from llava.vision.pixels import divide_to_patches, expand2square, process_images, resize_and_pad_image
from tests.conftest import encode, picture


def test_a_square_is_filled_around_the_centre():
    square = expand2square(Image.new("RGB", (4, 2), "white"), (1, 2, 3))
    assert square.size == (4, 4)
    assert [square.getpixel((0, y)) for y in range(4)] == [(1, 2, 3), (255, 255, 255), (255, 255, 255), (1, 2, 3)]
    assert expand2square(square, (0, 0, 0)) is square


@pytest.mark.parametrize(
    ("size", "best"),
    [((100, 100), (336, 672)), ((1000, 300), (1008, 336)), ((300, 1000), (336, 1008)), ((640, 330), (672, 336))],
)
def test_the_resolution_that_keeps_most_pixels_wins(size, best):
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    assert select_best_resolution(size, pinpoints) == best  # of those that keep all, the least waste, then the first
    assert get_anyres_image_grid_shape(size, str(pinpoints), 336) == (best[0] // 336, best[1] // 336)


def test_resizing_keeps_the_shape_and_pads_with_black():
    padded = resize_and_pad_image(Image.new("RGB", (100, 50), "white"), (200, 200))
    assert padded.size == (200, 200)
    assert padded.getpixel((100, 49)) == (0, 0, 0)
    assert padded.getpixel((100, 50)) == padded.getpixel((100, 149)) == (255, 255, 255)


def test_patches_are_cut_row_by_row():
    image = Image.new("RGB", (4, 4))
    for i in range(16):
        image.putpixel((i % 4, i // 4), (i, 0, 0))
    corners = [patch.getpixel((0, 0))[0] for patch in divide_to_patches(image, 2)]
    assert corners == [0, 2, 8, 10]


def test_pixels_come_stacked_where_they_can_be(loaded):
    _, model, image_processor, _ = loaded("v1.6")
    same = process_images([picture(400, 300), picture(400, 300)], image_processor, model.config)
    assert same.shape == (2, 5, 3, 168, 168)
    different = process_images([picture(400, 300), picture(600, 100)], image_processor, model.config)
    assert [x.shape[0] for x in different] == [5, 4]
    plain = type("Config", (), {"image_aspect_ratio": None})
    assert process_images([picture()], image_processor, plain).shape == (1, 3, 168, 168)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    data = encode(picture(), "JPEG")
    for name, content in (("half.jpg", data[: len(data) // 2]), ("text.jpg", b"hello"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_image(tmp_path / name)


def test_base64_pictures_are_decoded():
    assert load_image_from_base64(base64.b64encode(encode(picture()))).size == (200, 150)


def test_a_checkpoint_is_called_by_its_folder():
    assert get_model_name_from_path("liuhaotian/llava-v1.5-7b") == "llava-v1.5-7b"
    assert get_model_name_from_path("/runs/mine/checkpoint-100/") == "mine_checkpoint-100"


def test_stopping_at_a_keyword_is_decided_for_each_sample(loaded):
    tokenizer = loaded()[0]
    prompt = torch.tensor([[1, 5], [1, 5]])
    stop = KeywordsStoppingCriteria(["dog"], tokenizer, prompt)
    said = [tokenizer("a dog").input_ids[1:], tokenizer("a cat").input_ids[1:]]
    length = min(map(len, said))
    new = torch.tensor([ids[-length:] for ids in said])
    assert stop(new, None).tolist() == [True, False]
    assert stop(torch.cat([prompt, new], dim=1), None).tolist() == [True, False]


def test_pictures_are_resized_in_width_first(loaded):
    """Pillow 13 changed the order of the passes, and with it the last bits of tall pictures that shrink."""
    tall = picture(200, 900)
    expected = tall.resize((168, 900)).resize((168, 168))
    _, model, image_processor, _ = loaded("v1.6")
    pixels = process_images([tall], image_processor, model.config)[0, 0]
    assert torch.equal(pixels, image_processor(expected, return_tensors="pt").pixel_values[0])
    side = image_processor.side
    size = (side, int(side * 333 / 222))
    plain = picture(222, 333).resize((size[0], 333)).resize(size) if side < 222 else picture(222, 333).resize(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    cut = plain.crop((left, top, left + side, top + side))
    given = image_processor(picture(222, 333), return_tensors="pt").pixel_values
    assert torch.equal(given, image_processor(cut, return_tensors="pt").pixel_values)
