"""What the tests of the page in a browser share: the command's process, and a visitor's page."""

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT

in_browser = [
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

    def click_until(self, button: str, seen: str) -> None:
        """Click until JavaScript's condition holds: Gradio takes no click while what was stopped is still ending."""
        from playwright.sync_api import TimeoutError as TakesLonger  # where it is missing these tests are skipped

        self.page.click(button)
        try:
            self.page.wait_for_function(seen, timeout=WAIT / 3)
        except TakesLonger:
            self.page.click(button)
            self.page.wait_for_function(seen)

    def ask(self, question: str) -> None:
        """Ask, and wait for the answers' end."""
        before = self.page.locator("#talk .exchange").count()
        self.page.fill("#question textarea, #question input", question)
        self.click_until("#ask", f"document.querySelectorAll('#talk .exchange').length > {before}")
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

    def wait_for_kept(self, number: int, place: str = "#kept") -> None:
        self.page.wait_for_function(
            "([place, n]) => [...document.querySelectorAll(place + ' path.kept')]"
            ".reduce((sum, path) => sum + path.getAttribute('d').split('M').length - 1, 0) == n",
            arg=[place, number],
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


@contextmanager
def model_taken(address: str):
    """Somebody else's answer that goes on until the end."""
    message = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 1900}
    message |= {"temperature": 100, "seed": 2}  # at random, but of more than 1,600 tokens
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(message).encode(), headers)
    with urllib.request.urlopen(asked) as stream:
        for _ in range(4):
            stream.readline()
        yield
