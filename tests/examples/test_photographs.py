"""Where the object lies among the patches, and the picture that is drawn."""

import numpy as np
import pytest
from PIL import Image

from docs.examples.photographs.figure import LINE, PATCH, Panel, faded, figure, heat_map, outlined
from docs.examples.photographs.photographs import patch_shares, share_on_object
from tests.recipes import assert_refused, run_python


def test_patches_know_how_much_of_them_is_object_and_how_much_padding():
    # 4 x 4 patches of 50 pixels: the photograph of 200 x 100 has the second and third row.
    on_object, on_photograph = patch_shares((200, 100), [(0, 0), (75, 0), (75, 50), (0, 50)], 4)
    assert on_photograph.reshape(4, 4)[[0, 3]].max() == 0
    assert on_photograph.reshape(4, 4)[[1, 2]].min() == 1
    expected = np.zeros((4, 4))
    expected[1, :2] = 1, 0.5
    assert np.allclose(on_object.reshape(4, 4), expected, atol=0.04)  # a polygon's edge pixels are drawn


def test_a_tall_photograph_has_its_padding_at_the_sides():
    on_object, on_photograph = patch_shares((30, 60), [(0, 30), (30, 30), (30, 60), (0, 60)], 6)
    # Its 30 pixels are three patches, from the middle of one to the middle of another.
    assert on_photograph.reshape(6, 6).tolist() == [[0, 0.5, 1, 1, 0.5, 0]] * 6
    assert share_on_object(np.ones(36), on_object, on_photograph) == pytest.approx(0.5, abs=0.01)


def test_the_share_on_the_object_counts_nothing_of_the_padding():
    on_object, on_photograph = np.array([0.0, 0.25, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 1.0])
    assert share_on_object(np.array([9.0, 2.0, 1.0, 1.0]), on_object, on_photograph) == pytest.approx(1.5 / 4)


def test_kept_patches_are_whole_with_frames_around_them():
    red, blue = (222, 40, 30), (30, 90, 230)
    drawn = np.asarray(faded(Image.new("RGB", (60, 60), (200, 100, 0)), {7: red, 8: blue, 35: blue}, 6))
    kept = np.zeros((6, 6), dtype=bool)
    kept.flat[[7, 8, 35]] = True
    inside = kept.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    assert (drawn[inside] == (200, 100, 0)).all()  # neither faded nor hidden, also beside another
    assert ((drawn == (200, 100, 0)).all(axis=-1) == inside).all()
    assert (drawn[PATCH - 1, PATCH : 2 * PATCH - 2] == red).all()
    assert (drawn[PATCH + 3, 3 * PATCH] == blue).all()
    assert len(set(drawn[0, 0])) == 1


def test_the_heat_map_is_brightest_where_the_attention_is():
    importance = np.linspace(0, 1, 36)
    light = np.asarray(heat_map(importance[::-1], 6)).sum(axis=-1, dtype=int)
    assert light[0, 0] == light.max()
    assert light[-1, -1] == light.min() == 0


def test_the_outline_is_drawn_where_the_object_is():
    drawn = np.asarray(outlined(Image.new("RGB", (60, 30), "green"), [(0, 0), (30, 0), (30, 30), (0, 30)], 6))
    middle = (drawn == 255).all(axis=-1)[2 * PATCH : 4 * PATCH]  # away from the padding
    columns = np.flatnonzero(middle.all(axis=0))
    assert columns.min() <= 1
    assert abs(columns.max() - 3 * PATCH) <= 1


def test_a_figure_has_a_row_for_each_photograph_without_its_padding():
    wide, square = Image.new("RGB", (60, 30), "green"), Image.new("RGB", (60, 60), "green")
    width = 6 * PATCH
    panels = [Panel(Image.new("RGB", (width, width), "green"), "title", "caption")] * 2
    drawn = figure([(wide, panels), (square, panels)], 6)
    assert drawn.height == LINE + width // 2 + LINE + width + 2 * LINE
    green = (np.asarray(drawn.convert("RGB")) == (0, 128, 0)).all(axis=-1)
    assert green[:, 0].sum() == width // 2 + width


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--budgets", "0"], "--budgets"), (["--tower", "t", "--seeds", "-1"], "seeds"), ([], "--tower")],
)
def test_invalid_options_are_one_line(options, named):
    done = run_python("-m", "docs.examples.photographs", "--wheel", "w", "--photographs", "p", *options)
    assert_refused(done, named)
