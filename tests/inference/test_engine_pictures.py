"""The images of requests: as displayed or as stored, from whatever source, and named when they cannot be read."""

import base64
import os

import numpy as np
import pytest
import torch
from PIL import Image

from llava.errors import InputError
from llava.eval.benchmarks.questions import Question
from llava.eval.run.answering import make_requests
from llava.inference import Engine, make_request
from llava.inference.images import ImageStream, choose_tokens, encode_images, open_image
from llava.pruning import Settings
from tests.conftest import encode, picture, with_orientation, writing

EVERYTHING = Settings()


def tokens(llava: tuple, *images) -> list[torch.Tensor]:
    return choose_tokens(llava[1], encode_images(llava, images, "the message"), EVERYTHING)


def stream(llava: tuple, requests: list) -> list[torch.Tensor]:
    """The visual tokens of requests with one image each."""
    images = ImageStream(llava, requests, 0)
    return [images.next_batch([request])[0][0] for request in requests]


def test_what_a_user_asks_about_is_as_displayed(loaded):
    llava = loaded()
    turned, shown = with_orientation(6), picture(40, 20).transpose(Image.Transpose.ROTATE_270)
    on_white = Image.new("RGB", (4, 4), "white")
    on_white.paste("black", (0, 0, 4, 1))
    for given, expected in ((turned, shown), (encode(writing("RGBA")), on_white), (writing("LA"), on_white)):
        assert torch.equal(tokens(llava, given)[0], tokens(llava, expected)[0])
        request = make_request("What?", [given], "vicuna_v1", llava[1].config, EVERYTHING)
        assert torch.equal(stream(llava, [request])[0], tokens(llava, expected)[0])


def test_a_benchmark_has_the_pixels_as_they_are_stored(loaded):
    llava = loaded()
    question = Question(1, "What?", with_orientation(6), "What?")
    request = make_requests([question], "vicuna_v1", llava[1].config, EVERYTHING)[0]
    as_stored, as_displayed = tokens(llava, picture(40, 20))[0], tokens(llava, question.image)[0]
    assert not torch.equal(as_stored, as_displayed)
    own = make_request("What?", [question.image], "vicuna_v1", llava[1].config, EVERYTHING)
    # One after the other about the same image, which they do not share.
    for token, expected in zip(stream(llava, [request, own, request]), (as_stored, as_displayed, as_stored)):
        assert torch.equal(token, expected)


def test_grey_of_16_bits_and_data_uris_are_answered_as_what_they_show(loaded):
    llava = loaded()
    grey = picture().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    uri = f"data:image/png;base64,{base64.b64encode(encode(grey)).decode()}"
    for given in (encode(deep), deep, uri):
        assert torch.equal(tokens(llava, given)[0], tokens(llava, grey)[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_called_by_its_name(loaded, tmp_path, workers):
    llava = loaded()
    os.mkfifo(tmp_path / "pipe.png")
    for image, start in (
        (b"no picture", "cannot read the image of question 7: it is not a picture of a known format"),
        (encode(picture())[:500], "cannot read the image of question 7: image file is truncated"),
        ("data:image/png;base64,AAAA", "cannot read the image of question 7: it is not a picture"),
        (tmp_path / "pipe.png", f"cannot read the image {tmp_path / 'pipe.png'}: it is not a file"),
        (str(tmp_path / "none.png"), f"cannot read the image {tmp_path / 'none.png'}: No such file"),
    ):
        request = make_request("What?", [image], "vicuna_v1", llava[1].config, name="question 7")
        with pytest.raises(InputError) as error:
            list(Engine(llava, num_workers=workers).answer([request], max_new_tokens=1))
        assert str(error.value).startswith(start)
    with pytest.raises(InputError, match="of question 7: it is not a picture"):
        open_image(b"no picture", "question 7")


def test_an_image_that_is_too_large_for_the_tower_is_called_by_its_name(loaded, monkeypatch):
    llava = loaded()
    monkeypatch.setattr(llava[1].config, "image_aspect_ratio", None)
    long = Image.new("RGB", (2, 30_000))
    request = make_request("What?", [long], "vicuna_v1", llava[1].config, name="question 7")
    with pytest.raises(InputError, match="cannot use the image of question 7: 2 x 30000 pixels would become"):
        list(Engine(llava).answer([request], max_new_tokens=1))
