"""The page in a real browser, as a visitor uses it, from the command on."""

import re
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from tests.serve.visits import Visit, in_browser, model_taken, serving

pytest.importorskip("gradio", reason="the extra demo is not installed: see scripts/test_web.sh")
pytest.importorskip("playwright", reason="playwright is not installed: see scripts/test_web.sh")
pytestmark = in_browser


def test_the_bundled_model_answers_within_ten_seconds_of_the_command(served, tmp_path):
    """Of processor time, which other processes do not lengthen; a first start also compiles what it imports."""
    seconds = served[1]
    if seconds >= 10:
        with serving(tmp_path, "--device", "cpu") as (_, _, seconds):
            pass
    assert seconds < 10


def test_a_visitor_asks_moves_the_slider_changes_the_method_and_asks_again(visit):
    page = visit()
    assert (page.kept("important"), page.kept("other"), page.kept("dropped")) == (8, 8, 128)
    assert page.page.locator("#heat image.heat").count() == 1
    assert "template vicuna_v1" in page.page.inner_text("#head")
    assert "llava-tiny knows drawn scenes only" in page.page.inner_text("#head")
    page.page.check("#compare input")
    page.ask("What does the sign say?")
    assert page.answers() == ["park", "park"]
    assert page.figure("Visual tokens") == ["16", "144", "11 %"]
    assert all(re.fullmatch(r"(≈ )?[\d.]+ (ms|s)", cell) for cell in page.figure("Time to first token")[:2])

    page.page.focus("#visual_token_num input[type=range]")
    page.page.keyboard.press("ArrowRight")
    page.wait_for_kept(17)
    assert (page.kept("important"), page.kept("other")) == (8, 9)
    page.page.fill("#important_ratio input[type=number]", "1")
    page.page.keyboard.press("Tab")
    page.page.wait_for_function("!document.querySelector('#kept path.other')")
    assert page.kept("important") == 17

    assert "most attended patches" in page.page.inner_text("#pruning_method")
    page.choose("divprune")
    page.page.wait_for_function("!document.querySelector('#kept path.important')")
    page.page.wait_for_function("document.querySelector('#pruning_method').innerText.includes('DivPrune: ')")
    assert page.kept("other") == 17
    page.page.wait_for_selector("#important_ratio input[type=range]:disabled")
    page.ask("What shape is at the top?")
    assert page.answers() == ["star", "star"]
    assert page.page.locator("#talk .exchange").count() == 2
    page.choose("fastv")
    page.page.wait_for_selector("#kept .nothing-drawn")


def test_a_picture_that_is_uploaded_is_drawn_and_deleted(visit, folder, tmp_path):
    page, file = visit(), tmp_path / "mine.png"
    picture(300, 200, 5).save(file)
    page.wait_for_marked(0)  # the scene that the page begins with
    assert "Park" in page.page.inner_text("#picture figcaption")
    page.ask("What does the sign say?")
    page.upload(file)
    page.page.wait_for_selector("#talk .empty")
    page.wait_for_marked()
    assert page.page.inner_text("#uploaded .uploaded") == "mine.png, 300 × 200"
    page.wait_for_kept(16)
    itself = page.page.locator("#picture img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert itself == [300, 200]
    for name in ("#kept", "#heat"):
        assert page.page.locator(f"{name} path.padding").count() == 1
        assert "padding" in page.page.inner_text(f"{name} .legend")
    shown = page.page.locator("#source image").get_attribute("href")
    with urllib.request.urlopen(shown) as response:
        assert np.asarray(Image.open(response)).shape == (168, 168, 3)
    page.ask("What is it?")
    deadline = time.monotonic() + 10
    while list(folder.rglob("mine.png")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(folder.rglob("mine.png"))
    page.page.locator("#gallery button.thumbnail-item").nth(2).click()
    page.wait_for_marked(2)
    page.page.wait_for_selector("#uploaded .uploaded", state="detached")


def test_what_cannot_be_used_is_told_in_the_page_which_goes_on(visit, tmp_path):
    page = visit()
    bad, text, large = tmp_path / "bad.png", tmp_path / "text.txt", tmp_path / "large.png"
    bad.write_bytes(b"no picture")
    text.write_text("no picture either")
    large.write_bytes(b"0" * (20 * 1024 * 1024 + 1))
    for file, why in ((bad, "not a picture of a known format"), (text, "not a picture"), (large, "at most 20 MB")):
        page.upload(file)
        page.notice(file.name, "#picture-notice")
        page.notice(why, "#picture-notice")
        page.wait_for_marked(0)
    page.page.locator("#gallery button.thumbnail-item").nth(0).click()
    page.notice("", "#picture-notice")
    page.page.fill("#question textarea, #question input", "   ")
    page.page.click("#ask")
    page.notice("The question is empty")
    page.page.fill("#question textarea, #question input", "word " * 3000)
    page.notice("")  # another question may be a good one
    page.page.click("#ask")
    page.notice("longer than the context")
    page.page.wait_for_timeout(1000)  # the refused event ends after its notice, and would set the controls again
    page.page.fill("#visual_token_num input[type=number]", "0")
    page.notice("must be at least 1", "#settings-notice")
    page.page.keyboard.press("Tab")  # Gradio then makes it 1
    page.notice("", "#settings-notice")
    page.wait_for_kept(1)
    page.page.fill("#visual_token_num input[type=number]", "16")
    page.page.keyboard.press("Tab")
    page.wait_for_kept(16)
    page.ask("What does the sign say?")
    assert page.answers() == ["park"]
    assert not page.page.locator(".toast-body").count()


def test_visitors_with_other_budgets_and_pictures_do_not_disturb_each_other(visit):
    first, second = visit(), visit()
    second.page.locator("#gallery button.thumbnail-item").nth(1).click()
    second.page.wait_for_function("document.querySelectorAll('#gallery .selected, #gallery button').length")
    second.page.fill("#visual_token_num input[type=number]", "40")
    second.page.keyboard.press("Tab")
    second.wait_for_kept(40)
    for page in (first, second):  # both are asked before either has answered
        page.page.fill("#question textarea, #question input", "What does the sign say?")
        page.page.evaluate("document.querySelector('#ask').click()")
    for page, said, tokens in ((first, "park", "16"), (second, "fire", "40")):
        page.page.wait_for_selector("#talk .answer.done")
        page.page.wait_for_selector("#figures table")
        assert page.answers() == [said]
        assert page.figure("Visual tokens")[0] == tokens
    assert first.kept("kept") == 16


def test_who_waits_sees_so_in_place_of_the_answer_and_stop_while_something_runs(visit, served):
    page = visit()
    assert not page.page.locator("#stop").is_visible()
    page.ask("What does the sign say?")
    assert not page.page.locator("#stop").is_visible()
    page.page.fill("#question textarea, #question input", "What color is the ring?")
    with model_taken(served[0]):
        page.page.click("#ask")
        page.page.locator("#talk .answer.running", has_text="You are next.").wait_for()
        assert "What color is the ring?" in page.page.inner_text("#talk")
        page.page.click("#stop")
        page.page.wait_for_function("!document.querySelector('#talk .running')")
    assert page.answers() == ["park"]  # the question that was stopped is gone
    page.page.locator("#stop").wait_for(state="hidden")
    page.ask("What color is the ring?")
    assert page.answers() == ["brown"]


def test_a_new_conversation_forgets(visit):
    page = visit()
    page.ask("What does the sign say?")
    page.page.click("#anew")
    page.page.wait_for_selector("#talk .empty")
    page.ask("What does the sign say?")
    assert page.answers() == ["park"]


def test_what_a_question_chooses_is_drawn_with_its_answer(visit):
    page = visit()
    for method, number in (("mmtok", 16), ("fastv", 16)):
        page.choose(method)
        page.page.locator("#kept .nothing-drawn", has_text="drawn with the answer").wait_for()
        page.ask("What color is the ring?")
        page.wait_for_kept(number)
        page.page.click("#anew")
        page.page.wait_for_selector("#kept .nothing-drawn")


def test_an_answer_is_made_again_with_other_settings_and_copied(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.page.click("#again")
    page.notice("There is no answer yet")
    page.ask("What does the sign say?")
    page.page.fill("#visual_token_num input[type=number]", "40")
    page.page.keyboard.press("Tab")
    page.wait_for_kept(40)
    page.page.click("#again")
    page.page.locator("#talk .label", has_text="40 of 144").wait_for()
    page.page.wait_for_selector("#talk .answer.done")
    assert page.page.locator("#talk .exchange").count() == 1
    page.page.click("#talk .copy")
    page.page.locator("#talk .copy", has_text="Copied").wait_for()
    assert page.page.evaluate("navigator.clipboard.readText()") == page.answers()[0] == "park"


def test_a_link_holds_settings_and_scene(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.page.locator("#gallery button.thumbnail-item").nth(1).click()
    page.page.get_by_role("button", name="Where is the diamond?").first.wait_for()
    page.choose("divprune")
    page.page.fill("#visual_token_num input[type=number]", "20")
    page.page.keyboard.press("Tab")
    page.page.wait_for_function("document.querySelectorAll('#kept path.important').length == 0")
    page.page.click("#link")
    page.page.locator("#link", has_text="Copied").wait_for()
    link = page.page.evaluate("navigator.clipboard.readText()")
    assert link == page.page.evaluate("location.href")
    other = visit(path=link.removeprefix(page.address) + "&important_ratio=7")
    other.wait_for_kept(20)
    other.notice("important_ratio=7")
    assert other.page.input_value("#pruning_method input") == "divprune"
    other.page.get_by_role("button", name="Where is the diamond?").first.click()
    other.page.click("#ask")
    other.page.wait_for_selector("#talk .answer.done")
    assert other.answers() == ["top left"]


def test_what_is_said_is_never_run(visit):
    page = visit()
    said = "${document.title='run'} {{value}} <img src=http://elsewhere.invalid/x onerror=\"document.title='run'\">"
    page.ask(said)
    assert page.page.locator("#talk .question").first.inner_text() == said
    assert page.page.title() == "VisPruner"


def test_crops_are_drawn_as_crops(browser, checkpoints, tmp_path):
    options = ("--model-path", str(checkpoints("v1.6")), "--device", "cpu", "--max_new_tokens", "4")
    with serving(tmp_path, *options) as (_, address, _):
        page, file = Visit(browser, address), tmp_path / "square.png"
        assert "drawn scenes" not in page.page.inner_text("#head")
        picture(336, 336).save(file)
        page.page.set_input_files("#upload input[type=file]", file)
        page.wait_for_kept(5 * 16)
        assert page.page.locator("#kept g.crop").count() == 5  # whole, and in two by two
        page.page.click("#budget_per input")
        page.page.get_by_role("option", name="image", exact=True).click()
        page.wait_for_kept(16)
        page.choose("random")
        page.page.wait_for_selector("#pruning_seed input")
        page.wait_for_kept(16)
        page.context.close()


def test_a_server_answers_and_the_page_says_that_nothing_can_be_drawn(browser, model_server, tmp_path):
    with serving(tmp_path, "--server", model_server.url) as (_, address, _):
        page = Visit(browser, address)
        assert "--model-path" in page.page.inner_text("#kept")
        page.page.check("#compare input")
        page.ask("What is it?")
        assert page.answers() == ["1 texts, (168, 168), 64 tokens", "1 texts, (168, 168), 576 tokens"]
        page.page.fill("#question textarea, #question input", "refuse this")
        page.page.click("#ask")
        page.notice("The server says: visual_token_num must be at least 1")
        page.context.close()


def test_a_server_that_takes_no_settings_has_no_controls(browser, model_server, tmp_path):
    model_server.pruning |= {"patches": 144, "takes_settings": False}
    with serving(tmp_path, "--server", model_server.url) as (_, address, _):
        page = Visit(browser, address)
        page.ask("What is it?")
        assert page.answers() == ["1 texts, (168, 168), its own tokens"]
        assert "64 of 144 tokens" in page.page.inner_text("#talk")
        for control in ("#visual_token_num", "#important_ratio", "#compare"):
            assert not page.page.locator(control).is_visible()
        page.context.close()


def test_nothing_is_left_when_the_command_ends(tmp_path):
    with serving(tmp_path, "--device", "cpu") as (process, _, _):
        assert list(tmp_path.glob("llava-web-*"))
        process.terminate()
        process.wait(30)
        assert not list(tmp_path.glob("llava-web-*"))
