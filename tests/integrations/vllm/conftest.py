"""vLLM on the bundled scenes. The test files that need it skip themselves where it is not installed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
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
SERVER = {"visual_token_num": 24}  # what the engine of `ask_tiny` keeps by itself
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


@contextlib.contextmanager
def engine(folder: Path, model: Path, **options) -> Iterator[Callable]:
    """vLLM's `LLM` on a model, with files in `folder`: ask(*rounds) has the answers to requests, see offline.py."""
    folder.mkdir(exist_ok=True)
    (spec := folder / "spec.json").write_text(json.dumps({"model": str(model), "options": EXACT | options}))
    command = [sys.executable, "-m", "tests.integrations.vllm.offline", spec]
    with (log := folder / "log").open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=file, stderr=file, text=True)

    def ask(*rounds: list[dict], max_tokens: int = 16) -> list[list[dict]]:
        (asked := folder / f"{time.monotonic_ns()}").write_text(
            json.dumps({"rounds": rounds, "max_tokens": max_tokens})
        )
        with contextlib.suppress(BrokenPipeError):
            print(asked, file=process.stdin, flush=True)
        _await(asked.with_suffix(".answers").exists, process, log)
        return json.loads(asked.with_suffix(".answers").read_text())

    try:
        yield ask
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()


@pytest.fixture
def ask_offline(tmp_path):
    """Ask a model several rounds of requests, of an engine that ends with that."""

    def ask(model: Path, *rounds: list[dict], max_tokens: int = 16, **options) -> list[list[dict]]:
        with engine(tmp_path / "engine", model, **options) as asked:
            return asked(*rounds, max_tokens=max_tokens)

    return ask


@pytest.fixture(scope="session")
def ask_tiny(prepared, tmp_path_factory):
    """Ask the bundled model of an engine that stays, with `SERVER` as its settings."""
    with engine(tmp_path_factory.mktemp("tiny"), prepared, mm_processor_kwargs=SERVER) as ask:
        yield ask


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
        _await(lambda: _is_up(address), process, log)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it may have left behind
                os.killpg(process.pid, signal.SIGKILL)


def _await(is_there: Callable[[], object], process: subprocess.Popen, log: Path) -> None:
    """Wait until something is there. Fails, with the end of a log, if the process ends or it takes many minutes."""
    end = time.monotonic() + 900
    while time.monotonic() < end and process.poll() is None:
        if is_there():
            return
        time.sleep(0.2)
    pytest.fail(f"vLLM does not answer:\n{log.read_text()[-4000:]}")


def _is_up(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
        return True
    return False


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
