"""The figure: which patches the bundled model keeps."""

import numpy as np
import pytest
from PIL import Image

from docs.examples import draw_selection as script
from llava.errors import InputError
from llava.vision.pixels import process_images
from tests.conftest import ROOT, load
from tests.recipes import assert_refused, run_python

SCENE = ROOT / "playground" / "data" / "scenes" / "mm-vet" / "images" / "v1_0.jpg"


@pytest.fixture(scope="module")
def tiny():
    return load(ROOT / "playground" / "checkpoints" / "llava-tiny")


def test_the_outlined_patches_are_those_that_the_model_keeps(tiny):
    _, model, image_processor, _ = tiny
    image = Image.open(SCENE)
    pixels = process_images([image], image_processor, model.config)
    model.visual_token_num = 16
    kept = model.encode_images(pixels).patches
    model.visual_token_num = None
    important, diverse = script.kept_patches(model, pixels, 16)
    assert len(important) == len(diverse) == 8
    assert important | diverse == set(kept[0].tolist())


def test_patches_are_outlined_where_they_lie():
    drawn = np.asarray(script.outline(Image.new("RGB", (168, 168), "gray"), 12, {13}, {143}))
    for color, box in ((script.IMPORTANT, (42, 84)), (script.DIVERSE, (462, 504))):
        rows, columns = np.nonzero((drawn == color).all(axis=-1))
        assert (rows.min(), rows.max() + 1) == (columns.min(), columns.max() + 1) == box


def test_a_figure_has_a_panel_for_every_budget_and_only_square_pictures(tiny):
    figure = script.draw_figure(tiny, Image.open(SCENE), "vicuna_v1", "What does the sign say?", [32, 16])
    assert figure.width == 3 * script.PANEL + 2 * script.GAP
    colors = {color for _, color in figure.getcolors(1 << 24)}
    assert not colors & {script.RIGHT, script.WRONG}
    with pytest.raises(InputError, match="square"):
        script.draw_figure(tiny, Image.new("RGB", (200, 100)), "vicuna_v1", "What does the sign say?", [32])


@pytest.mark.parametrize(("right", "color", "other"), [("park", "RIGHT", "WRONG"), ("pork", "WRONG", "RIGHT")])
def test_an_answer_is_marked_as_right_or_wrong(tiny, right, color, other):
    figure = script.draw_figure(tiny, Image.open(script.SCENE), "vicuna_v1", script.QUESTION, [32], right)
    colors = {color for _, color in figure.getcolors(1 << 24)}
    assert getattr(script, color) in colors
    assert getattr(script, other) not in colors


@pytest.mark.parametrize("budget", ["0", "-1", "many"])
def test_a_budget_that_cannot_be_is_one_line(budget):
    done = run_python("docs/examples/draw_selection.py", "--budgets", budget)
    assert_refused(done, "error: argument --budgets: must be ")
