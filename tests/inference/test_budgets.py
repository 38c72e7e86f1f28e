"""Requests at many pruning settings: every answer is the one that its request gets alone, every image encoded once."""

import weakref

import pytest

from llava.errors import InputError
from llava.inference import Engine, make_request
from llava.inference.budgets import answer_at_each
from llava.inference.images import ImageStream
from llava.pruning import Settings
from tests.conftest import IMAGE, generate_alone, picture

GREEDY = {"do_sample": False, "max_new_tokens": 6}
PICTURES = [picture(seed=seed) for seed in range(3)]
SETTINGS = [
    Settings(),
    Settings(16, 0.3),
    Settings(16, 0.7),
    Settings(4),
    Settings(16, pruning_method="visionzip"),
    Settings(16, pruning_method="mmtok"),
    Settings(16, pruning_method="fastv"),
]


def requests_of(llava: tuple) -> list:
    """Requests without an image, with one and with two; the first picture comes back at the end."""
    messages = [
        ("How many legs has a spider?", []),
        ("What?", PICTURES[:1]),
        ("And what else?", PICTURES[:1]),
        ("What?", PICTURES[1:2]),
        (f"Is {IMAGE} like {IMAGE}?", PICTURES[1:]),
        ("Why?", PICTURES[:1]),
    ]
    return [make_request(text, images, "llava_v1", llava[1].config) for text, images in messages]


@pytest.mark.parametrize(("version", "family"), [("v1.5", "llama"), ("v1.6", "mistral")])
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 1), (None, 0)])
def test_every_answer_is_that_of_the_request_alone(loaded, version, family, batch_size, workers):
    llava = loaded(version, family)
    requests = requests_of(llava)
    found = {}
    for number, setting, said in answer_at_each(Engine(llava, batch_size, workers), requests, SETTINGS, **GREEDY):
        assert (number, setting) not in found
        found[number, setting] = said.text
    expected = {
        (number, setting): generate_alone(llava, request.prompt, list(request.images), pruning=setting, **GREEDY)
        for number, request in enumerate(requests)
        for setting in SETTINGS
    }
    assert found == expected
    assert len(set(expected.values())) > len(requests)


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_the_tower_sees_every_image_once(loaded, encoded, batch_size):
    llava = loaded()
    passes = encoded(llava[1])
    list(answer_at_each(Engine(llava, batch_size), requests_of(llava), SETTINGS, **GREEDY))
    assert passes == [1, 1, 1]


def test_what_the_tower_saw_is_kept_to_the_last_request(loaded, monkeypatch):
    llava, seen = loaded(), []
    encode = llava[1].get_vision_tower().encode

    def watch(pixels):
        views = encode(pixels)
        seen.append(weakref.ref(views))
        return views

    monkeypatch.setattr(llava[1].get_vision_tower(), "encode", watch)
    one, two = (make_request("What?", [image], "llava_v1", llava[1].config, Settings(4)) for image in PICTURES[:2])
    stream, alive = ImageStream(llava, [one, two, one], 0), []
    for request in (one, two, one):
        stream.next_batch([request])
        alive.append([views() is not None for views in seen])
    assert alive == [[True], [True, False], [False, False]]


def test_a_picture_that_cannot_be_read_is_named(loaded):
    llava = loaded()
    request = make_request("What?", [b"no picture"], "llava_v1", llava[1].config, name="question 7")
    with pytest.raises(InputError, match="image of question 7"):
        list(answer_at_each(Engine(llava), [request], SETTINGS, **GREEDY))
