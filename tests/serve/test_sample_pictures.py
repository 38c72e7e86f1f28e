"""The pictures to choose from are there."""

import importlib.util

import pytest

from llava.serve.page.samples import samples
from llava.vision.pictures import read_picture


def test_the_bundled_scenes_can_be_chosen():
    found = samples()
    assert len([sample for sample in found if sample.file.suffix == ".jpg"]) == 5
    assert len({sample.title for sample in found}) == len(found)
    for sample in found:
        assert min(read_picture(sample.file).size) >= 168


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed")
def test_with_scikit_image_three_photographs_too():
    assert [sample.title for sample in samples()][-3:] == ["Astronaut", "Cat", "Coffee"]
