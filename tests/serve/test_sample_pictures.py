"""The pictures to choose from are there."""

import importlib.util
import json
import re

import pytest

from llava.inference import Session
from llava.pruning import Settings
from llava.serve.page.samples import BUNDLED, QUESTIONS, samples
from llava.vision.pictures import read_picture
from tests.conftest import load

# Read off the pictures, in the order of the questions.
ANSWERS = {
    "Park": ("park", "brown", "black"),
    "Fire": ("fire", "purple", "top left"),
    "Bread": ("bread", "red", "left"),
    "Book": ("blue", "white", "yes"),
    "Ring": ("park", "purple", "top right"),
}


def test_the_bundled_scenes_can_be_chosen():
    found = samples()
    assert len([sample for sample in found if sample.file.suffix == ".jpg"]) == 5
    assert len({sample.title for sample in found}) == len(found)
    for sample in found:
        assert min(read_picture(sample.file).size) >= 168


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed")
def test_with_scikit_image_three_photographs_too():
    assert [sample.title for sample in samples()][-3:] == ["Astronaut", "Cat", "Coffee"]


def test_each_scene_has_questions_as_the_bundled_data_has_them():
    """Of a shape and a colour there, whichever it asks about."""
    data = (path.read_text() for path in (BUNDLED / "data").rglob("llava*.jsonl"))
    asked = {json.loads(line)["text"].partition("\n")[0] for text in data for line in text.splitlines()}
    known = {re.sub(r"\b[a-z]+(?=\?| in the image\?)", "*", question) for question in asked}
    for sample in samples():
        assert len(sample.questions) == len(set(sample.questions)) == len(QUESTIONS)
        for question in sample.questions:
            assert re.sub(r"\b[a-z]+(?=\?| in the image\?)", "*", question) in known


@pytest.mark.slow
def test_the_bundled_model_answers_the_scenes_questions():
    loaded = load(BUNDLED / "checkpoints" / "llava-tiny")
    said = {}
    for sample in samples():
        if sample.title in ANSWERS:
            sessions = [Session(loaded, None, Settings()) for _ in sample.questions]
            answers = [
                session.ask(question, [sample.file], do_sample=False, max_new_tokens=20).lower()
                for session, question in zip(sessions, sample.questions)
            ]
            said[sample.title] = tuple(answers)
    assert said == ANSWERS
