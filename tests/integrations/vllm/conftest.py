"""vLLM on the bundled scenes. The test files that need it skip themselves where it is not installed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava.eval import evaluate
from llava.integrations.vllm.folder import prepare
from llava.model.template import named_template

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "playground" / "checkpoints" / "llava-tiny"
SCENES = ROOT / "playground" / "data" / "scenes"
BENCHMARKS = {
    "pope": ("llava_pope_test.jsonl", "val2014"),
    "textvqa": ("llava_textvqa_val_v051_ocr.jsonl", "train_images"),
}
CONV_MODE = "vicuna_v1"  # of the published figures
EXACT = {"dtype": "float32", "enforce_eager": True, "block_size": 32, "max_model_len": 2048}
NO_VLLM = "vLLM is not installed here: see scripts/test_vllm.sh"


def questions(benchmark: str) -> list[tuple[Path, str]]:
    """Picture and text of every bundled question."""
    file, images = BENCHMARKS[benchmark]
    rows = map(json.loads, (SCENES / benchmark / file).read_text().splitlines())
    return [(SCENES / benchmark / images / row["image"], row["text"]) for row in rows]


def as_prompt(text: str, images: int = 1) -> str:
    return named_template(CONV_MODE).prompt("<image>\n" * images + text)


def request(image: Path, text: str, **settings) -> dict:
    return {"prompt": as_prompt(text), "images": [str(image)], "settings": settings}


@pytest.fixture(scope="session")
def own_answers(tmp_path_factory):
    """The package's own answers to all questions of a benchmark, in order, once for each budget."""
    known = {}

    def get(benchmark: str, visual_token_num: int) -> list[str]:
        key = benchmark, visual_token_num
        if key not in known:
            out = tmp_path_factory.mktemp("own")
            result = evaluate(benchmark, MODEL, visual_token_num=visual_token_num, out_dir=out, num_workers=0)
            known[key] = [json.loads(line)["text"] for line in result.answers_file.read_text().splitlines()]
        return known[key]

    return get


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """The folder from which vLLM serves the bundled model."""
    folder = tmp_path_factory.mktemp("prepared") / "llava-tiny"
    prepare(str(MODEL), folder)
    return folder


@pytest.fixture
def ask_offline(tmp_path):
    """Ask a model several rounds of requests in one process: see offline.py."""

    def ask(model: Path, *rounds: list[dict], max_tokens: int = 16, **options) -> list[list[dict]]:
        spec, answers = tmp_path / "spec.json", tmp_path / "answers.json"
        asked = {"model": str(model), "options": EXACT | options, "rounds": rounds, "max_tokens": max_tokens}
        spec.write_text(json.dumps(asked))
        run_python("-m", "tests.integrations.vllm.offline", spec, answers)
        return json.loads(answers.read_text())

    return ask


def run_python(*arguments, code: int = 0) -> str:
    """Run this Python at the repository's root: its output. Fails, with the end of that, for another exit code."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == code, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


@contextlib.contextmanager
def serving(log: Path, checkpoint: Path, tokens: int | str, *options: str, **environment) -> Iterator[str]:
    """The address of a server that `scripts/serve.sh` started with these arguments; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    exact = [f"--{name.replace('_', '-')}={value}" for name, value in EXACT.items() if value is not True]
    command = ["bash", ROOT / "scripts" / "serve.sh", checkpoint, tokens, "--port", port, "--enforce-eager"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*map(str, command), *exact, *options],
            env=os.environ | {"PYTHON": sys.executable, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _await(address, process, log)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it may have left behind
                os.killpg(process.pid, signal.SIGKILL)


def _await(address: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until the server answers. Fails, with the end of its log, if it ends or takes more than minutes."""
    end = time.monotonic() + 600
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def ask_package():
    """The package's own answers to requests of `offline`, by its engine."""
    from llava.inference import Engine, Request
    from llava.model.builder import load_pretrained_model
    from llava.pruning import Settings

    engine = Engine(load_pretrained_model(str(MODEL), None, MODEL.name, device="cpu"))

    def ask(requests: list[dict], **server) -> list[str]:
        asked = [
            Request(each["prompt"], tuple(each["images"]), Settings(**server | each.get("settings", {})))
            for each in requests
        ]
        return [completion.text for completion in engine.answer(asked, max_new_tokens=16, do_sample=False)]

    return ask
