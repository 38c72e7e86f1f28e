"""What the tests of the page share: a service of a tiny random model, and a server that speaks vLLM's protocol."""

import base64
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from PIL import Image

from llava.pruning import Settings
from llava.serve.page.local_model import LocalModel
from llava.serve.page.service import Service
from llava.serve.page.transcript import Exchange
from tests.conftest import picture
from tests.inference.conftest import encoded, watch  # noqa: F401
from tests.serve.visits import Visit, serving

GREEDY = {"do_sample": False, "max_new_tokens": 7}
SIXTEEN = Settings(16)


def ask(service: Service, key: str, question: str, pruning: Settings = SIXTEEN, compare: bool = False) -> Exchange:
    """The exchange that the question becomes."""
    for _ in service.ask(key, question, pruning, compare):
        pass
    return service.visitors.get(key).exchanges[-1]


class ModelServer(ThreadingHTTPServer):
    """Speaks what the page needs of vLLM's protocol, on a port of its own.

    It answers with what it was asked, so that a test can see what arrived: how many messages, the size of the picture,
    the visual tokens wanted. `bodies` are the requests, `addresses` where each came from. `pruning` is what the server
    says of itself, None for a server that says nothing; it refuses a request's settings where it takes none. A question
    that begins with "break off" gets half an answer, one with "refuse" an error.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict] = []
        self.addresses: list[tuple[str, int]] = []
        own = {"visual_token_num": 64, "important_ratio": 0.5, "pruning_method": "vispruner", "pruning_seed": 0}
        self.pruning: dict | None = {"patches": 576, "takes_settings": True, "settings": own}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/pruning" and self.server.pruning is not None:
            return self._send_json(200, self.server.pruning)
        if self.path != "/v1/models":
            return self._send_json(404, {"detail": "Not Found"})
        self._send_json(200, {"object": "list", "data": [{"id": "llava-served", "object": "model"}]})

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.addresses.append(self.client_address)
        texts, size = [], None
        for message in body["messages"]:
            parts = message["content"]
            for part in parts if isinstance(parts, list) else [{"type": "text", "text": parts}]:
                if part["type"] == "image_url":
                    found = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", part["image_url"]["url"])
                    size = Image.open(BytesIO(base64.b64decode(found[2]))).size
                else:
                    texts.append(part["text"])
        takes_settings = self.server.pruning is not None and self.server.pruning["takes_settings"]
        if "mm_processor_kwargs" in body and not takes_settings:
            return self._send_json(400, {"error": {"message": "Per-request mm_processor_kwargs are disabled"}})
        wanted = body.get("mm_processor_kwargs", {"visual_token_num": "its own"})
        if texts[-1].startswith("refuse"):
            error = {"message": "visual_token_num must be at least 1", "type": "BadRequestError", "code": 400}
            return self._send_json(400, {"error": error})
        self._stream(body, f"{len(texts)} texts, {size}, {wanted['visual_token_num']} tokens", texts[-1])

    def _stream(self, body: dict, answer: str, question: str) -> None:
        assert body["stream"] and body["stream_options"] == {"include_usage": True}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        words = answer.split(" ")
        for i, word in enumerate(words):
            if question.startswith("break off") and i == 2:
                return
            self._event({"choices": [{"index": 0, "delta": {"content": f" {word}" if i else word}}]})
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 70, "completion_tokens": len(words), "total_tokens": 70 + len(words)}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, values: dict) -> None:
        self.wfile.write(f"data: {json.dumps(values)}\n\n".encode())

    def _send_json(self, status: int, values: dict) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def model_server():
    pytest.importorskip("openai", reason="the extra demo is not installed: see scripts/test_web.sh")
    server = ModelServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def service_of(loaded):
    """service_of("v1.6") -> the page's service with a tiny random model of this version."""

    def get(version: str = "v1.5", language_model: str = "llama", server=None) -> Service:
        model = LocalModel(loaded(version, language_model), "tiny", None, GREEDY)
        return Service(model, server, Settings(16))

    return get


@pytest.fixture
def picture_file(tmp_path):
    """A picture of 200 x 150 pixels in a file."""
    path = tmp_path / "picture.png"
    picture(200, 150, 1).save(path)
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the command that `served` is of has its temporary files."""
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="session")
def served(folder):
    """The address of the page of the bundled model, and the processor seconds until it answered."""
    with serving(folder, "--device", "cpu") as (_, address, seconds):
        yield address, seconds


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: see scripts/test_web.sh")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["BROWSER"], args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, served):
    """visit(...) -> a new visitor's page. No visitor's page may have asked another host for anything."""
    visits = []

    def begin(**options) -> Visit:
        visits.append(Visit(browser, served[0], **options))
        return visits[-1]

    yield begin
    for each in visits:
        each.context.close()
        assert not [url for url in each.asked_for if not url.startswith((each.address, "data:", "blob:"))]
