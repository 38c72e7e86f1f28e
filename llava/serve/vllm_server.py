"""A vLLM server that answers the page's questions over its OpenAI-compatible API."""

import http.client
import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from PIL import Image

from llava.pruning import Settings
from llava.serve.drawing import data_uri
from llava.serve.talk import Figures
from llava.utils import InputError, one_line

PATIENCE = 120  # seconds without a byte
_MOST_BYTES = 1 << 20  # of a response that is not streamed
_MOST_MESSAGE = 300  # characters of what a server says of an error


class VllmServer:
    """A server with the plugin of `llava.integrations.vllm`.

    Attributes:
        model: the name that it gives its first model.
    """

    def __init__(self, url: str, options: dict) -> None:
        """`options` are transformers' generation options. Raises InputError for a URL where no such server answers."""
        self.url = url.rstrip("/").removesuffix("/v1")
        parts = urlsplit(self.url)
        try:
            self._port = parts.port
        except ValueError as error:
            raise InputError(f"--server {url}: {one_line(error)}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--server must be such as http://127.0.0.1:8000, not {url!r}")
        self._host, self._path, self._is_https = parts.hostname, parts.path, parts.scheme == "https"
        self._options = options
        with self._request("GET", "/v1/models") as response:
            models = _json_object(response.read(_MOST_BYTES)).get("data")
        if not isinstance(models, list) or not models or not isinstance(models[0], dict) or "id" not in models[0]:
            raise InputError(f"the server {self.url} names no model")
        self.model = str(models[0]["id"])

    def chat(self, image: Image.Image, patches: int) -> "ServerChat":
        """A conversation about a picture, whose crops have so many patches."""
        return ServerChat(self, image, patches)

    def stream(self, messages: list[dict], pruning: dict) -> Iterator[dict]:
        """The parts of the answer to `messages` with the visual tokens of `pruning`, as the server streams them.

        Raises InputError, with what the server says, if it refuses or is lost.
        """
        body = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self._options["max_new_tokens"],
            "temperature": self._options.get("temperature", 0.0),
            "mm_processor_kwargs": pruning,
        }
        if "top_p" in self._options:
            body["top_p"] = self._options["top_p"]
        with self._request("POST", "/v1/chat/completions", body) as response:
            for line in response:
                text = line.decode("utf-8", "replace").strip()
                if text == "data: [DONE]":
                    return
                if text.startswith("data:"):
                    part = _json_object(text.removeprefix("data:"))
                    if "error" in part:
                        raise InputError(f"the server says: {_message(part)}")
                    yield part
        raise InputError(f"the server {self.url} broke off in the middle of an answer")

    @contextmanager
    def _request(self, method: str, path: str, body: dict | None = None) -> Iterator[http.client.HTTPResponse]:
        """The response to a request. Raises InputError, with what the server says, for any other than a success."""
        kind = http.client.HTTPSConnection if self._is_https else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=PATIENCE)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, self._path + path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise InputError(
                    f"the server says: {_message(_json_object(response.read(_MOST_BYTES))) or response.reason}"
                )
            yield response
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "strerror", None) or one_line(error)
            raise InputError(f"the server {self.url} cannot be reached: {cause}") from error
        finally:
            connection.close()


class ServerChat:
    """A conversation about one picture; the server keeps what it has computed, and gets all messages each time."""

    def __init__(self, server: VllmServer, image: Image.Image, patches: int) -> None:
        self._server, self._patches = server, patches
        self._picture = {"type": "image_url", "image_url": {"url": data_uri(image)}}
        self._messages: list[dict] = []
        self._history: list[dict] = []  # before the last question

    def stream(self, question: str, pruning: Settings) -> Generator[str, None, tuple[str, Figures]]:
        """The answer piece by piece; returns all of it, and what it took.

        Raises InputError; the conversation is then as it was.
        """
        history = self._messages
        wanted = {"visual_token_num": pruning.visual_token_num, "important_ratio": pruning.important_ratio}
        text, figures = yield from self._ask(history, question, wanted)
        answer = {"role": "assistant", "content": text}
        self._history, self._messages = history, [*self._with(history, question), answer]
        return text, figures

    def stream_unpruned(self, question: str) -> Generator[str, None, tuple[str, Figures]]:
        """The answer to the last question with all patches of a crop, after the same history; otherwise as `stream`."""
        return (yield from self._ask(self._history, question, {"visual_token_num": self._patches}))

    def unpruned_figures(self) -> Figures:
        """Of the last question without pruning, what is known without asking: nothing."""
        return Figures()

    def drop_cache(self) -> None:
        """Nothing of the conversation is held here but its text."""

    def _with(self, history: list[dict], question: str) -> list[dict]:
        content = question if history else [self._picture, {"type": "text", "text": question}]
        return [*history, {"role": "user", "content": content}]

    def _ask(self, history: list[dict], question: str, pruning: dict) -> Generator[str, None, tuple[str, Figures]]:
        said: list[str] = []
        start, times, usage = time.perf_counter(), [], {}
        for part in self._server.stream(self._with(history, question), pruning):
            usage = part.get("usage") or usage
            for choice in part.get("choices") or ():
                if piece := choice.get("delta", {}).get("content"):
                    times.append(time.perf_counter())
                    said.append(piece)
                    yield piece
        answered, took = usage.get("completion_tokens"), times[-1] - times[0] if times else 0
        figures = Figures(
            prompt_tokens=usage.get("prompt_tokens"),
            answer_tokens=answered,
            first_token=times[0] - start if times else None,
            per_second=(answered - 1) / took if answered and answered > 1 and took > 0 else None,
        )
        return "".join(said).strip(), figures


def _json_object(text: str | bytes) -> dict:
    """The JSON object of a text; an empty one for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _message(answer: dict) -> str:
    """What an error's JSON says."""
    error = answer.get("error", answer)
    text = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(text or "").split())[:_MOST_MESSAGE]
