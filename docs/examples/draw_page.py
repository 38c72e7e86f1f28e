"""Make the documents' picture of the page, assets/web.png: start it, ask a question, and take what a browser shows.

Needs the extra `demo`, playwright (pip install playwright), and Chromium, or what BROWSER names: the environment that
scripts/test_web.sh makes has them.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from llava.cli import CommandParser, output_file, run_command
from llava.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "What does the sign say?"
WIDTH, SCALE = 1000, 1.5  # of the window, hardly wider than a column of text on the web; pixels for one of its points


def find_browser() -> str:
    """The path of a browser. Raises InputError where there is none, or playwright is missing."""
    if importlib.util.find_spec("playwright") is None:
        raise InputError("playwright is not installed: pip install playwright")
    names = (os.environ.get("BROWSER"), "chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, (shutil.which(name) for name in names if name)), None)
    if found is None:
        raise InputError("no browser: install chromium, or set BROWSER to the path of one")
    return found


def take_picture(browser: str, address: str, output: Path) -> None:
    """Ask at this address, with pruning and without, and write what the browser then shows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        window = {"width": WIDTH, "height": 800}
        page = chromium.new_page(viewport=window, device_scale_factor=SCALE, color_scheme="light")
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector("#kept svg.sheet")
        page.check("#compare input")
        page.fill("#question textarea, #question input", QUESTION)
        page.click("#ask")
        page.wait_for_function(
            "document.querySelectorAll('#talk .answer.done').length == 2 && document.querySelector('#figures table')"
            " && document.querySelector('#queue').innerText.includes('empty')"
        )
        page.evaluate("document.activeElement.blur()")
        output.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=output, full_page=True, type="png")
        chromium.close()


def main() -> None:
    parser = CommandParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=output_file, default=ROOT / "assets" / "web.png")
    args = parser.parse_args()
    browser = find_browser()
    command = [sys.executable, "-m", "llava.serve.web", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise InputError("the page did not start: its message is above")
            take_picture(browser, address, args.output)
        finally:
            process.terminate()
    print(args.output)


if __name__ == "__main__":
    run_command(main)
