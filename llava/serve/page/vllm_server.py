"""A vLLM server that answers the page's questions over its OpenAI-compatible API."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from llava.errors import InputError, one_line
from llava.pruning import METHOD_NAMES, Settings
from llava.pruning.settings import DEFAULTS
from llava.serve.page.drawing import data_uri
from llava.serve.page.transcript import Figures

PATIENCE = 120  # seconds without a byte
SETTINGS = ("visual_token_num", "important_ratio")  # that a visitor may choose: the others are the server's
_MOST_EXACT = 4_000_000  # pixels of a picture that is sent as it is; a larger one is made small anyway
_MOST_MESSAGE = 300  # characters of what a server says of an error


@dataclass(frozen=True)
class ServerPruning:
    """What a server keeps of a picture.

    Attributes:
        patches: N of a crop; None where the server does not say what it keeps.
        takes_settings: whether a request may have settings of its own.
        settings: those of a request that has none; the method is the default's where it is not one of the registry.
        method: what the server calls its method.
    """

    patches: int | None = None
    takes_settings: bool = False
    settings: Settings = field(default_factory=Settings)
    method: str = ""

    @property
    def is_known(self) -> bool:
        """Whether the server says what it keeps."""
        return self.patches is not None

    @classmethod
    def read(cls, said: Any) -> "ServerPruning":
        """From the JSON of `llava.integrations.vllm.endpoint`. Raises ValueError for anything else."""
        if not isinstance(said, dict) or not isinstance(said.get("settings"), dict):
            raise ValueError("no settings")
        patches, settings = said.get("patches"), said["settings"]
        if type(patches) is not int or patches < 1 or not isinstance(method := settings.get("pruning_method"), str):
            raise ValueError("no patches, or no method")
        if method not in METHOD_NAMES:  # a file of the server's: code that it names is not run here
            settings = settings | {"pruning_method": DEFAULTS["pruning_method"]}
        known = Settings(**{name: settings[name] for name in DEFAULTS if name in settings})
        return cls(patches, said.get("takes_settings") is True, known, method)

    def begin_with(self, asked: Settings) -> Settings:
        """The settings that a visitor begins with: the server's own, but for what `asked` changes.

        Raises InputError, naming the setting, for one that the server does not take.
        """
        given = {name: getattr(asked, name) for name in SETTINGS if getattr(asked, name) != DEFAULTS[name]}
        if given and not self.takes_settings:
            raise InputError(
                f"the server takes no {min(given)} from here: scripts/serve.sh CKPT TOKENS --trust-request-mm-kwargs "
                "starts one that does"
            )
        number = self.settings.visual_token_num or self.patches
        return replace(self.settings, **{"visual_token_num": number, **given})


class VllmServer:
    """A server with the plugin of `llava.integrations.vllm`.

    Attributes:
        model: the name that it gives its first model.
        pruning: what it keeps.
        options: transformers' generation options to begin with.
    """

    def __init__(self, url: str, options: dict) -> None:
        """`options` are transformers' generation options. Raises InputError for a URL where no such server answers."""
        self.url, self.options = url.rstrip("/").removesuffix("/v1"), options
        _check_address(self.url)
        try:
            from openai import OpenAI
        except ImportError as error:
            raise InputError("--server needs the openai package: pip install -e '.[demo]'") from error
        # The key is one that nobody has: the environment's is for OpenAI, and no other server's business. A connection
        # is for one question: vLLM closes one that has been idle for 5 s, or whose last answer was an error of its own,
        # and the next question could be on its way just then.
        alone = {"Connection": "close"}
        self._client = OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE, default_headers=alone
        )
        with self._as_input_error():
            models = [str(model.id) for model in self._client.models.list().data or () if hasattr(model, "id")]
        if not models:
            raise InputError(f"the server {self.url} names no model")
        self.model = models[0]
        self.pruning = self._ask_pruning()

    @property
    def about(self) -> str:
        """A line about it."""
        own = f", {self.pruning.patches} patches of a crop, {self.pruning.method}" if self.pruning.is_known else ""
        return f"{self.model} on {self.url}{own}"

    def chat(self, image: Image.Image, patches: int) -> "ServerChat":
        """A conversation about a picture, whose crops have so many patches."""
        return ServerChat(self, image, patches)

    def _ask_pruning(self) -> ServerPruning:
        try:
            with self._as_input_error():
                return ServerPruning.read(self._client.get(f"{self.url}/pruning", cast_to=object))
        except ValueError:  # InputError is one: `scripts/serve.sh` did not start it
            return ServerPruning()

    def stream(self, messages: list[dict], pruning: dict, options: dict) -> Iterator:
        """The chunks of the answer to `messages`, as the server streams them.

        `pruning` are settings of this request, by name, where the server takes any; `options` transformers' generation
        options.

        Raises InputError, with what the server says, if it refuses or is lost.
        """
        is_whole = False
        with (
            self._as_input_error(),
            self._client.chat.completions.create(
                model=self.model,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                max_tokens=options["max_new_tokens"],
                temperature=options.get("temperature", 0.0),
                extra_body={"mm_processor_kwargs": pruning} if self.pruning.takes_settings else None,
                **({"top_p": options["top_p"]} if "top_p" in options else {}),
            ) as chunks,
        ):
            for chunk in chunks:
                is_whole |= any(choice.finish_reason for choice in chunk.choices)
                yield chunk
        if not is_whole:
            raise InputError(f"the server {self.url} broke off in the middle of an answer")

    @contextmanager
    def _as_input_error(self) -> Iterator[None]:
        """Raise InputError, with what the server says, for what the client or the connection raises."""
        import openai

        try:
            yield
        except openai.APIConnectionError as error:
            raise InputError(
                f"the server {self.url} cannot be reached: {one_line(error.__cause__ or error)}"
            ) from error
        except openai.APIError as error:
            said = error.body.get("message") if isinstance(error.body, dict) else error.body
            if not said and isinstance(error, openai.APIStatusError):
                said = error.response.reason_phrase
            raise InputError(f"the server says: {' '.join(str(said or error).split())[:_MOST_MESSAGE]}") from error


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    try:
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        is_good = False
    if not is_good:
        raise InputError(f"--server must be such as http://127.0.0.1:8000, not {url!r}")


class ServerChat:
    """A conversation about one picture; the server keeps what it has computed, and gets all messages each time."""

    kept = None  # what is chosen there is not known here

    def __init__(self, server: VllmServer, image: Image.Image, patches: int) -> None:
        self._server, self._patches = server, patches
        url = data_uri(image, is_exact=image.width * image.height <= _MOST_EXACT)
        self._picture = {"type": "image_url", "image_url": {"url": url}}
        self._messages: list[dict] = []
        self._history: list[dict] = []  # before the last question

    def stream(
        self, question: str, pruning: Settings, options: dict | None = None, again: bool = False
    ) -> Generator[str, None, tuple[str, Figures]]:
        """The answer piece by piece; returns all of it, and what it took.

        `options` are transformers' generation options, those to begin with if None. With `again` it takes the place of
        the last question and answer.
        Raises InputError; the conversation is then as it was.
        """
        history = self._history if again else self._messages
        wanted = {name: getattr(pruning, name) for name in SETTINGS}
        text, figures = yield from self._ask(history, question, wanted, options)
        answer = {"role": "assistant", "content": text}
        self._history, self._messages = history, [*self._with(history, question), answer]
        return text, figures

    def stream_unpruned(self, question: str, options: dict | None = None) -> Generator[str, None, tuple[str, Figures]]:
        """The answer to the last question with all patches of a crop, after the same history; otherwise as `stream`."""
        return (yield from self._ask(self._history, question, {"visual_token_num": self._patches}, options))

    def unpruned_figures(self) -> Figures:
        """Of the last question without pruning, what is known without asking: nothing."""
        return Figures()

    def drop_cache(self) -> None:
        """Nothing of the conversation is held here but its text."""

    def _with(self, history: list[dict], question: str) -> list[dict]:
        content = question if history else [self._picture, {"type": "text", "text": question}]
        return [*history, {"role": "user", "content": content}]

    def _ask(
        self, history: list[dict], question: str, pruning: dict, options: dict | None
    ) -> Generator[str, None, tuple[str, Figures]]:
        said: list[str] = []
        start, times, usage = time.perf_counter(), [], None
        for chunk in self._server.stream(self._with(history, question), pruning, options or self._server.options):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                if piece := choice.delta.content:
                    times.append(time.perf_counter())
                    said.append(piece)
                    yield piece
        answered, took = usage and usage.completion_tokens, times[-1] - times[0] if times else 0
        figures = Figures(
            prompt_tokens=usage and usage.prompt_tokens,
            answer_tokens=answered,
            first_token=times[0] - start if times else None,
            per_second=(answered - 1) / took if answered and answered > 1 and took > 0 else None,
        )
        return "".join(said).strip(), figures
