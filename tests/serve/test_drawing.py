"""The drawings: every kept patch is outlined where it lies, every other is dimmed, and crops lie as crops."""

import re
from html.parser import HTMLParser
from io import BytesIO
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from llava.serve.page.drawing import (
    HEAT,
    Sheet,
    crop_images,
    data_uri,
    draw_importance,
    draw_kept,
    empty_panel,
    heat_colours,
    importance_legend,
    kept_legend,
    padding_legend,
    picture_source,
    small_uri,
)
from llava.serve.page.selection_view import Kept
from tests.conftest import picture


class Drawing(HTMLParser):
    """The elements of a drawing: (tag, attributes, the place of the crop that it lies on)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.at = [], None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        attributes = dict(attributes)
        if attributes.get("class") == "crop":
            self.at = tuple(map(float, re.findall(r"[\d.]+", attributes["transform"])))
        self.elements.append((tag, attributes, self.at))

    def squares(self, name: str) -> list[list[tuple[int, int]]]:
        """Of each path of this class, the patches (column, row) that it goes round."""
        found = []
        for tag, attributes, _ in self.elements:
            if tag == "path" and name in attributes["class"].split():
                corners = re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-([\d.]+)z", attributes["d"])
                assert "".join(f"M{x} {y}h{w}v{h}h-{b}z" for x, y, w, h, b in corners) == attributes["d"]
                assert {float(w) for *_, w, _, _ in corners} == {float(h) for *_, h, _ in corners}
                found.append([(int(float(x)), int(float(y))) for x, y, *_ in corners])
        return found


def kept(important: set[int], others: set[int]) -> Kept:
    return Kept(frozenset(important), frozenset(others))


def test_patches_are_outlined_and_dimmed_where_they_lie():
    drawing = Drawing(draw_kept(Sheet(3), [kept({1, 5}, {6})], "words"))
    assert drawing.squares("important") == [[(1, 0), (2, 1)]]
    assert drawing.squares("other") == [[(0, 2)]]
    assert drawing.squares("dropped") == [[(0, 0), (2, 0), (0, 1), (1, 1), (1, 2), (2, 2)]]


def test_where_all_are_kept_nothing_hides_the_picture():
    drawing = Drawing(draw_kept(Sheet(3), [kept(set(), set(range(9)))], "words"))
    assert not drawing.squares("dropped") + drawing.squares("other") + drawing.squares("important")
    assert [attributes["href"] for tag, attributes, _ in drawing.elements if tag == "use"] == ["#crop-0"]


def test_crops_lie_beside_the_whole_picture_as_they_were_cut():
    sheet = Sheet(4, 3, 2)
    drawing = Drawing(draw_kept(sheet, [kept({i}, set()) for i in range(7)], "words"))
    places = {attributes["href"]: at for tag, attributes, at in drawing.elements if tag == "use"}
    assert sheet.crops == len(places) == 7
    for i in range(1, 7):
        x, y = places[f"#crop-{i}"]
        assert x > places["#crop-0"][0] + 4  # beside the whole picture, without touching it
        for j in range(1, i):
            right, below = (i - 1) % 3 - (j - 1) % 3, (i - 1) // 3 - (j - 1) // 3
            assert np.sign(x - places[f"#crop-{j}"][0]) == np.sign(right)
            assert np.sign(y - places[f"#crop-{j}"][1]) == np.sign(below)
    width, height = sheet.size
    assert max(x for x, _ in places.values()) + 4 == pytest.approx(width)
    assert max(y for _, y in places.values()) + 4 == pytest.approx(height)
    assert drawing.squares("important") == [[(i % 4, i // 4)] for i in range(7)]


def test_crops_that_are_missing_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        draw_kept(Sheet(4, 2, 2), [kept({1}, set())], "words")


def test_the_most_important_patch_is_the_brightest_of_all_crops():
    importance = np.full((5, 16), 0.01)
    importance[3, 6] = 0.4
    drawing = Drawing(draw_importance(Sheet(4, 2, 2), importance, "words"))
    maps = [pixels_of(attributes["href"]) for tag, attributes, _ in drawing.elements if tag == "image"]
    assert len(maps) == 5
    light = np.stack([heat[..., :3].sum(axis=-1, dtype=int) for heat in maps])
    assert np.unravel_index(light.argmax(), light.shape) == (3, 1, 2)
    assert (maps[3][1, 2, :3] == HEAT[-1]).all()
    assert len(np.unique(light)) == 2


def test_more_importance_is_lighter_and_none_at_all_can_be_drawn():
    colours = heat_colours(np.linspace(0, 1, 50))
    light = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()
    assert "data:image/png" in draw_importance(Sheet(2), np.zeros((1, 4)), "words")


def test_the_legend_has_the_colours_that_are_drawn():
    importance = np.full((1, 16), 0.1)
    importance[0, :3] = 0, 0.4, 0.2
    drawing = Drawing(draw_importance(Sheet(4), importance, "words"))
    (drawn,) = [pixels_of(attributes["href"]) for tag, attributes, _ in drawing.elements if tag == "image"]
    assert drawn.shape == (4, 4, 3)  # how opaque it is, the style says, of the legend too
    legend = importance_legend(0.4)
    colours = [tuple(map(int, colour)) for colour in re.findall(r"rgb\((\d+), (\d+), (\d+)\)", legend)]
    assert "40.0 %" in legend
    for patch, share in ((0, 0), (1, 1), (2, 0.5), (3, 0.25)):  # of the bar's length
        assert tuple(drawn[0, patch]) == colours[round(share * (len(colours) - 1))]


def hatched(html: str, side: int) -> list[np.ndarray]:
    """Of each crop, which patches are wholly hatched: (side, side)."""
    crops = re.findall(r'<g class="crop".*?</g>', html)
    found = []
    for crop in crops:
        path = re.search(r'<path class="padding" fill-rule="evenodd" d="M0 0h(\d+)v\1h-\1zM(.*?)"', crop)
        is_hatched = np.zeros((side, side), bool)
        if path:
            left, top, right, bottom = map(float, re.fullmatch(r"(\S+) (\S+)H(\S+)V(\S+)H\1z", path[2]).groups())
            for y, x in np.ndindex(side, side):
                is_hatched[y, x] = x + 1 <= left or x >= right or y + 1 <= top or y >= bottom
        found.append(is_hatched)
    return found


@pytest.mark.parametrize(
    ("sheet", "picture_in"),
    [
        (Sheet(4), [(0, 0, 4, 4)]),
        (Sheet(4, content=(0, 1.5, 4, 1)), [(0, 1, 4, 3)]),  # whole patches are hatched, not those on an edge
        (Sheet(4, 2, 1, content=(1, 0, 6, 4)), [(0, 0, 4, 4), (1, 0, 4, 4), (0, 0, 3, 4)]),
        (Sheet(4, 1, 2, content=(0, 4, 4, 2)), [(0, 0, 4, 4), (0, 0, 0, 0), (0, 0, 4, 2)]),
        (Sheet(4, 2, 2), [(0, 0, 4, 4)] * 5),
    ],
)
def test_padding_is_hatched_and_called_so(sheet, picture_in):
    every, importance = [kept({0}, {5})] * sheet.crops, np.ones((sheet.crops, 16))
    wanted = []
    for left, top, right, bottom in picture_in:
        wanted.append(np.ones((4, 4), bool))
        wanted[-1][top:bottom, left:right] = False
    for html in (draw_kept(sheet, every, "words"), draw_importance(sheet, importance, "words")):
        assert np.array_equal(hatched(html, 4), wanted)
    assert ("padding" in padding_legend(sheet)) is bool(np.any(wanted))


def test_a_small_picture_has_the_proportions_of_the_large_one():
    assert pixels_of(small_uri(picture(400, 100), 96)).shape == (24, 96, 3)
    assert pixels_of(small_uri(picture(40, 30), 96)).shape == (30, 40, 3)
    assert pixels_of(small_uri(Image.new("RGB", (2000, 1)), 96)).shape == (1, 96, 3)


def pixels_of(uri: str) -> np.ndarray:
    with urlopen(uri) as response:
        return np.asarray(Image.open(BytesIO(response.read())))


def test_the_crops_are_what_the_tower_was_given():
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    images = [picture(28, 28, seed) for seed in range(2)]
    values = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in images])
    pixels = ((values - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    crops = crop_images(pixels, mean, std)
    for crop, image in zip(crops, images):
        assert (np.asarray(crop) == np.asarray(image)).all()
    source = Drawing(picture_source(crops, 2))
    shown = {attributes["id"]: attributes for tag, attributes, _ in source.elements if tag == "image"}
    assert list(shown) == ["crop-0", "crop-1"]
    assert (shown["crop-1"]["width"], shown["crop-1"]["height"]) == ("2", "2")
    assert (pixels_of(shown["crop-1"]["href"]) == np.asarray(images[1])).all()


def test_a_photograph_is_sent_as_one_and_a_drawing_without_loss():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (336, 336, 3), dtype=np.uint8))
    assert data_uri(noise).startswith("data:image/jpeg;base64,")
    assert (pixels_of(data_uri(Image.new("RGB", (336, 336), "red"))) == (255, 0, 0)).all()


def test_a_legend_names_the_kinds_that_there_are():
    legend = kept_legend([kept({1, 2}, {3})], 9, ("important", "diverse"))
    assert re.findall(r">(\d+) (\w+)<", legend) == [("2", "important"), ("1", "diverse"), ("6", "dropped")]
    assert "important" not in kept_legend([kept(set(), {3})], 9, ("important", "kept"))
    assert kept_legend([kept(set(), set(range(9)))], 9, ("important", "kept")).count("Every patch is kept") == 1


def test_what_is_said_is_never_markup():
    assert "<b>" not in empty_panel("Kept", "<b>no</b>").replace("<b>Kept</b>", "")
    assert 'aria-label="&quot;&gt;&lt;i&gt;"' in draw_kept(Sheet(1), [kept({0}, set())], '"><i>')
