"""The page in a real browser, as a visitor uses it, from the command on."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.conftest import ROOT, picture

pytest.importorskip("gradio", reason="the extra demo is not installed: see scripts/test_web.sh")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: see scripts/test_web.sh")
pytestmark = [
    pytest.mark.skipif(not os.environ.get("BROWSER"), reason="BROWSER names no browser"),
    pytest.mark.slow,
]
WAIT = 30_000  # milliseconds


@contextmanager
def serving(folder: Path, *options: str):
    """The command's process, its address, and the seconds of one core that it took until it answered."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "llava.serve.web", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=folder, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            with urllib.request.urlopen(address, timeout=60) as response:
                assert response.status == 200
            took = psutil.Process(process.pid).cpu_times()
            yield process, address, took.user + took.system
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the command has its temporary files."""
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def served(folder):
    with serving(folder, "--device", "cpu") as (_, address, seconds):
        yield address, seconds


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["BROWSER"], args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """One visitor's page, and every address that it asked for."""

    def __init__(self, browser, address: str, path: str = "", **options) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self.context.set_default_timeout(WAIT)
        self.page, self.asked_for, self.address = self.context.new_page(), [], address
        self.page.on("request", lambda request: self.asked_for.append(request.url))
        self.page.on("websocket", lambda socket: self.asked_for.append(socket.url))
        self.page.goto(address + path)
        self.page.wait_for_selector("#kept svg.sheet, #kept .nothing-drawn")

    def ask(self, question: str) -> None:
        """Ask, and wait for the answers' end."""
        before = self.page.locator("#talk .exchange").count()
        self.page.fill("#question textarea, #question input", question)
        self.page.click("#ask")
        self.page.wait_for_function(
            f"document.querySelectorAll('#talk .exchange').length > {before} "
            "&& !document.querySelector('#talk .running') && document.querySelector('#figures table')"
        )

    def answers(self) -> list[str]:
        """Those to the last question, the pruned one first."""
        return self.page.locator("#talk .exchange").first.locator(".answer .said").all_inner_texts()

    def kept(self, name: str) -> int:
        """How many patches are outlined as such."""
        paths = self.page.locator(f"#kept path.{name}").all()
        return sum(path.get_attribute("d").count("M") for path in paths)

    def wait_for_kept(self, number: int) -> None:
        self.page.wait_for_function(
            "n => [...document.querySelectorAll('#kept path.kept')]"
            ".reduce((sum, path) => sum + path.getAttribute('d').split('M').length - 1, 0) == n",
            arg=number,
        )

    def outlined(self, place: str) -> int:
        """How many patches are outlined there."""
        return sum(path.get_attribute("d").count("M") for path in self.page.locator(f"{place} path.kept").all())

    def choose(self, method: str, control: str = "#pruning_method") -> None:
        self.page.click(f"{control} input")
        self.page.get_by_role("option", name=method, exact=True).click()

    def notice(self, text: str, place: str = "#notice") -> None:
        """Wait for a message beside the question, or beside another place; empty waits for its end."""
        self.page.wait_for_function(
            "([place, text]) => { const found = document.querySelector(place + ' .notice');"
            " return text ? found && found.innerText.includes(text) && found.offsetHeight : !found }",
            arg=[place, text],
        )

    def upload(self, file: Path) -> None:
        self.page.set_input_files("#upload input[type=file]", file)

    def wait_for_marked(self, *numbers: int) -> None:
        """Wait until these of the gallery's pictures are marked, and no other."""
        self.page.wait_for_function(
            "numbers => String(numbers) == String([...document.querySelectorAll('#gallery .thumbnail-item')]"
            ".flatMap((item, i) => item.classList.contains('selected') ? [i] : []))",
            arg=numbers,
        )

    def figure(self, row: str) -> list[str]:
        """The cells of a row of the figures."""
        cells = self.page.locator("#figures tr", has=self.page.locator(f"th:text-is('{row}')")).locator("td").all()
        return [cell.inner_text() for cell in cells]


@pytest.fixture
def visit(browser, served):
    visits = []

    def begin(**options) -> Visit:
        visits.append(Visit(browser, served[0], **options))
        return visits[-1]

    yield begin
    for each in visits:
        each.context.close()
        assert not [url for url in each.asked_for if not url.startswith((each.address, "data:", "blob:"))]


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


@contextmanager
def model_taken(address: str):
    """Somebody else's answer that goes on until the end."""
    message = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "temperature": 100, "max_tokens": 1900}
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(message).encode(), headers)
    with urllib.request.urlopen(asked) as stream:
        for _ in range(4):
            stream.readline()
        yield


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
    page.page.click("#compare-ask")
    page.page.locator("#said-2 .answer.done").wait_for()
    page.page.wait_for_selector("#kept-2 path.kept")
    assert page.outlined("#kept-2") == 9
    page.page.click("#remove-0")
    page.page.locator("#column-0").wait_for(state="hidden")
    assert page.page.locator("#comparison .column:visible").count() == 2
    assert not page.page.locator("#remove-1").is_visible()


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
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


def test_the_heat_map_is_as_opaque_as_its_legend(visit):
    page = visit()
    parts = "#heat image.heat, #heat .scale i"
    opacities = f"[...document.querySelectorAll('{parts}')].map(part => getComputedStyle(part).opacity)"
    assert len(set(page.page.evaluate(opacities))) == 1
    for value in ("1", "0.25"):
        page.page.locator("#heat input.opacity").fill(value)
        assert page.page.evaluate(opacities) == [value] * 2


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
