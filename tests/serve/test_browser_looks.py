"""The page in a real browser: the comparison, and how all of it looks in other widths and themes."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.serve.visits import in_browser, model_taken

pytest.importorskip("gradio", reason="the extra demo is not installed: see scripts/test_web.sh")
pytest.importorskip("playwright", reason="playwright is not installed: see scripts/test_web.sh")
pytestmark = in_browser


def test_methods_are_compared_beside_each_other(visit, served):
    page = visit()
    page.page.get_by_role("tab", name="Compare").click()
    page.choose("cdpruner", "#pruning_method-1")
    page.page.locator("#kept-1 .nothing-drawn", has_text="drawn with the answer").wait_for()
    page.choose("unpruned", "#pruning_method-1")
    page.page.get_by_role("button", name="What color is the ring?").last.click()
    page.page.click("#compare-ask")
    for i, number, share in ((0, "16", "11 %"), (1, "144", "100 %")):
        column = page.page.locator(f"#column-{i}")
        column.locator(".answer.done").wait_for()
        assert column.locator(".said").inner_text() == "brown"
        assert column.locator("tr", has_text="Visual tokens").locator("td").inner_text().split(" ", 1) == [
            number,
            share,
        ]
        assert column.locator("tr", has_text="KV cache").is_visible()
    assert page.outlined("#kept-0") == 16
    page.page.click("#compare-add")
    page.page.fill("#visual_token_num-2 input[type=number]", "9")
    page.page.keyboard.press("Tab")
    page.choose("cdpruner", "#pruning_method-2")
    with model_taken(served[0]):
        page.page.click("#compare-ask")
        page.page.locator("#said-0", has_text="You are next.").wait_for()
        page.page.locator("#said-2", has_text="After the answer beside it.").wait_for()
        page.page.click("#compare-stop")
        page.page.locator("#said-2", has_text="stopped").wait_for()
    page.click_until("#compare-ask", "!document.querySelector('#said-2').textContent.includes('stopped')")
    page.page.locator("#said-2 .answer.done").wait_for()
    page.page.wait_for_selector("#kept-2 path.kept")
    assert page.outlined("#kept-2") == 9
    page.page.click("#remove-0")
    page.page.locator("#column-0").wait_for(state="hidden")
    assert page.page.locator("#comparison > .column:visible").count() == 2
    assert not page.page.locator("#remove-1").is_visible()


def test_columns_begin_as_the_conversation_is_set_and_then_go_their_own_way(visit):
    page = visit()
    page.choose("divprune")
    page.page.fill("#visual_token_num input[type=number]", "25")
    page.page.keyboard.press("Tab")
    page.wait_for_kept(25)
    page.page.get_by_role("tab", name="Compare").click()
    page.wait_for_kept(25, "#kept-0")
    assert page.page.input_value("#pruning_method-0 input") == "divprune"
    page.page.wait_for_selector("#visual_token_num-1 input[type=range]:disabled")  # which is unpruned
    page.page.fill("#visual_token_num-0 input[type=number]", "9")
    page.page.keyboard.press("Tab")
    page.wait_for_kept(9, "#kept-0")
    page.page.get_by_role("tab", name="Ask").click()
    page.wait_for_kept(25)
    page.page.get_by_role("tab", name="Compare").click()
    page.page.click("#compare-add")
    page.wait_for_kept(25, "#kept-2")
    assert page.page.input_value("#visual_token_num-0 input[type=number]") == "9"


@pytest.mark.parametrize("width", [1280, 390])
def test_an_error_beside_a_column_moves_no_other(visit, width):
    page = visit(viewport={"width": width, "height": 900})
    page.page.get_by_role("tab", name="Compare").click()
    page.page.get_by_role("button", name="What color is the ring?").last.click()
    page.page.click("#compare-ask")
    page.page.locator("#said-1 .answer.done").wait_for()
    page.page.wait_for_selector("#kept-0 path.kept")
    parts = [f"{part}-{i}" for i in (0, 1) for part in ("#kept", "#said", "#pruning_method")]
    boxes = [page.page.locator(part).bounding_box() for part in parts]
    page.page.fill("#visual_token_num-0 input[type=number]", "0")
    page.notice("must be at least 1", "#notice-0")
    assert [page.page.locator(part).bounding_box() for part in parts] == boxes
    page.page.keyboard.press("Tab")  # Gradio then makes it 1
    page.notice("", "#notice-0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 1000, 390])
def test_nothing_is_cut_off(visit, width, scheme):
    page = visit(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.page.check("#compare input")
    page.ask("What does the sign say?")
    assert page.page.evaluate("document.documentElement.scrollWidth") == width
    for name in ("#kept svg.sheet", "#heat svg.sheet", "#ask", "#figures table"):
        box = page.page.locator(name).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["height"] > 20
    for name in ("#picture", "#kept", "#heat"):
        assert page.page.locator(f"{name} figcaption").evaluate("each => each.scrollWidth <= each.clientWidth"), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_patches_slider_and_question_are_in_one_view_of_a_phone(visit, scheme):
    width, height = 390, 844
    page = visit(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.ask("What does the sign say?")
    page.page.evaluate("window.scrollTo(0, 0)")
    slider = "#visual_token_num input[type=range]"
    for name in ("#kept svg.sheet", "#kept .legend", slider, "#question textarea, #question input", "#ask"):
        box = page.page.locator(name).first.bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= height, name
    page.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    box = page.page.locator(slider).bounding_box()
    assert 0 <= box["y"] < 100  # it stays
    assert not page.page.locator("#pruning_method").is_visible()
    page.page.click("#fold summary")
    page.choose("divprune")
    page.page.wait_for_function("!document.querySelector('#kept path.important')")


def test_the_heat_map_is_as_opaque_as_its_legend_and_as_the_visitor_has_set_it(visit):
    page = visit()
    parts = "#heat image.heat, #heat .scale i"
    opacities = f"[...document.querySelectorAll('{parts}')].map(part => getComputedStyle(part).opacity)"
    assert len(set(page.page.evaluate(opacities))) == 1
    for value in ("1", "0.25"):
        page.page.locator("#heat input.opacity").fill(value)
        assert page.page.evaluate(opacities) == [value] * 2
    page.page.locator("#gallery button.thumbnail-item").nth(1).click()
    page.page.wait_for_function("document.querySelector('#picture figcaption').innerText.includes('Fire')")
    page.page.wait_for_function("document.querySelector('#heat input.opacity').value === '0.25'")
    assert page.page.evaluate(opacities) == ["0.25"] * 2


def test_the_documents_picture_of_the_page_is_made_by_a_script(tmp_path):
    output = tmp_path / "folder" / "web.png"
    done = subprocess.run(
        [sys.executable, "-m", "docs.examples.draw_page", "--output", output],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{output}\n", "")
    shown = np.asarray(Image.open(output).convert("RGB"))
    assert shown.shape[1] == 1500
    for colour in ((214, 40, 27), (29, 95, 214)):  # outlines of what is kept
        assert (shown == colour).all(axis=-1).sum() > 1000
