"""What a client of the chat API may send: OpenAI's fields as far as they are offered, and the pruning settings.

A field that is not known is refused by name, unless it is empty or asks for what happens anyway.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from llava.errors import InputError
from llava.pruning import METHOD_NAMES, MethodError, Settings

MOST_STOPS = 16
MOST_MARKS = 200_000  # quotes, commas and brackets of a request: what reading it costs
SETTINGS = tuple(field.name for field in fields(Settings))
# Book-keeping of OpenAI's, which changes no answer.
_NOTHING_TO_DO = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
_ALREADY_SO = {
    "n": 1,
    "logprobs": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "response_format": {"type": "text"},
    "tool_choice": "none",
    "modalities": ["text"],
}


class ChatError(InputError):
    """A request that is refused: what OpenAI's error body says of it, and the HTTP status."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class _Fields(BaseModel):
    """A JSON object; a field that is null, [] or {} counts as one that is not there."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_empty(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value not in (None, [], {})}


class ImageUrl(_Fields):
    """Where a picture is."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"  # changes nothing: visual_token_num sets a picture's tokens


class Part(_Fields):
    """A part of a message: a text, or a picture."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None

    @model_validator(mode="after")
    def _has_the_field_of_its_type(self) -> Part:
        if (self.text is None) == (self.type == "text") or (self.image_url is None) == (self.type == "image_url"):
            raise ValueError(f"a part of type {self.type!r} must have the field {self.type}, and no other")
        return self


class Message(_Fields):
    """One message of a conversation. `developer` is OpenAI's newer name for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: list[Part]
    name: str | None = None  # the templates have no place for it

    @model_validator(mode="before")
    @classmethod
    def _an_answer_may_be_empty(cls, values: Any) -> Any:
        """Clients send an answer of no words back as "", null or []."""
        is_empty = isinstance(values, dict) and values.get("role") == "assistant" and not values.get("content")
        return values | {"content": ""} if is_empty else values

    @field_validator("content", mode="before")
    @classmethod
    def _text_is_a_part(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    @property
    def text(self) -> str:
        """Its text parts, each on a line of its own."""
        return "\n".join(part.text for part in self.content if part.type == "text")


class StreamOptions(_Fields):
    """Whether a stream ends with the token counts."""

    include_usage: bool = False


# Their values are checked by Settings itself.
PruningFields = create_model("PruningFields", __base__=_Fields, **dict.fromkeys(SETTINGS, (Any, None)))


class ChatRequest(PruningFields):
    """The body of a request."""

    model: Any = None
    messages: list[Message]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[str], Field(max_length=MOST_STOPS)] = Field(default_factory=list)
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    mm_processor_kwargs: PruningFields | None = None  # where vLLM takes them

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_changes_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        nothing = {name for name, value in values.items() if name in _ALREADY_SO and value == _ALREADY_SO[name]}
        return {name: value for name, value in values.items() if name not in nothing | _NOTHING_TO_DO}

    @field_validator("temperature")
    @classmethod
    def _does_not_overflow(cls, temperature: float | None) -> float | None:
        if temperature and temperature < 1e-4:
            raise ValueError("must be 0 for greedy answers, or at least 0.0001")
        return temperature

    @field_validator("stop", mode="before")
    @classmethod
    def _text_is_a_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("stop")
    @classmethod
    def _has_letters(cls, stop: list[str]) -> list[str]:
        if not all(stop):
            raise ValueError("an empty text ends no answer")
        return stop

    @model_validator(mode="after")
    def _agrees(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise ChatError("stream_options goes with stream alone", "stream_options")
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise ChatError("max_tokens and max_completion_tokens differ", "max_tokens")
        for name, value in _given(self.mm_processor_kwargs).items():
            if getattr(self, name) not in (None, value):
                raise ChatError(f"{name} and mm_processor_kwargs.{name} differ", name)
        return self

    @property
    def limit(self) -> int | None:
        """The longest answer in tokens; None for what the context has room for."""
        return self.max_tokens or self.max_completion_tokens

    def pruning(self, default: Settings) -> Settings:
        """The settings of the request: `default`, less those that are given. Raises ChatError for an invalid one."""
        given = _given(self.mm_processor_kwargs) | _given(self)
        # The server's owner may name a file with a method; a client could run any code so.
        if given.get("pruning_method", default.pruning_method) not in (*METHOD_NAMES, default.pruning_method):
            raise ChatError(f"pruning_method must be one of {', '.join(METHOD_NAMES)}", "pruning_method")
        try:
            return replace(default, **given)
        except MethodError:  # the server's own method is at fault
            raise
        except ValueError as error:
            raise ChatError(str(error), next((name for name in given if name in str(error)), None)) from error


def _given(values: PruningFields | None) -> dict[str, Any]:
    """The settings that are there."""
    settings = {} if values is None else {name: getattr(values, name) for name in SETTINGS}
    return {name: value for name, value in settings.items() if value is not None}


def read_request(body: bytes) -> ChatRequest:
    """The request of a body. Raises ChatError, naming the field, for what is not JSON or is not offered."""
    if sum(map(body.count, (b'"', b",", b"{", b"["))) > MOST_MARKS:
        raise ChatError(f"the request has more than {MOST_MARKS:,} quotes, commas and brackets", status=413)
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> ChatError:
    """The first of what is wrong."""
    first = error.errors(include_url=False, include_input=False)[0]
    cause, place = first.get("ctx", {}).get("error"), dotted(*first["loc"])
    if isinstance(cause, ChatError):
        return cause
    if first["type"] == "extra_forbidden":
        other = f" other than as {_ALREADY_SO[place]!r}" if place in _ALREADY_SO else ""
        return ChatError(f"{place} is not offered by this server{other}", place)
    if first["type"] == "json_invalid":
        return ChatError(f"the request is not JSON in UTF-8: {cause}")
    return ChatError(f"{place or 'the request'}: {cause or first['msg']}", place or None)


def dotted(*place: str | int) -> str:
    """`messages[0].content` of ("messages", 0, "content")."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
