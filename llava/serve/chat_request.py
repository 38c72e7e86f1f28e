"""An OpenAI-style chat request, checked field by field, as a prompt to a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from llava.inference.request import Request
from llava.inference.templates import conv_mode_for, open_conversation
from llava.pruning import METHOD_NAMES, Settings
from llava.serve.chat_messages import EMPTY, ChatError, Messages, is_integer, refuse_fields

_PRUNING = ("visual_token_num", "important_ratio", "pruning_method")
_READ = {
    *("model", "messages", "stream", "stream_options", "temperature", "top_p", "stop", "seed"),
    *("max_tokens", "max_completion_tokens", "mm_processor_kwargs", *_PRUNING),
}
# Book-keeping of OpenAI's, which changes no answer.
_NOTHING_TO_DO = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
# Other fields are refused, unless they ask for what happens anyway.
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
MOST_STOPS = 16


@dataclass(frozen=True)
class Sampling:
    """How each token is drawn; a temperature of 0 takes the likeliest. `top_k` 0 is no limit."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class ChatQuestion:
    """What a chat request asks for.

    Attributes:
        request: the prompt, its pictures and its pruning settings.
        sampling: how tokens are drawn.
        max_tokens: the longest answer; None for what the context has room for.
        stop: texts that end the answer, which goes up to the first of them.
        stream: whether the answer goes out in pieces.
        include_usage: whether a stream ends with the token counts.
    """

    request: Request
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


class ChatReader:
    """Reads chat requests to one model."""

    def __init__(self, model, model_name: str, conv_mode: str | None, allow_urls: bool) -> None:
        """`conv_mode` is the prompt template, the checkpoint's own if None. Raises InputError for an unknown one."""
        self.model_name, self.pruning, self.defaults = model_name, model.pruning, model.sampling_defaults
        self.messages = Messages(model.config, open_conversation(conv_mode_for(model, conv_mode)), allow_urls)

    def read(self, values: Any) -> ChatQuestion:
        """The question of a request's JSON. Raises ChatError, naming the field."""
        if not isinstance(values, dict):
            raise ChatError("the request must be a JSON object")
        model = values.get("model")
        if model not in (None, self.model_name):
            raise self.unknown(model)
        _refuse_others(values)
        prompt, pictures = self.messages.lay_out(values.get("messages"))
        stream, include_usage = _streaming(values)
        request = Request(prompt, pictures, self._pruning(values), "the conversation")
        return ChatQuestion(request, self._sampling(values), _max_tokens(values), _stop(values), stream, include_usage)

    def unknown(self, model: Any) -> ChatError:
        """The error for a model that is not served."""
        message = f"the model {model!r} does not exist: this server has {self.model_name!r}"
        return ChatError(message, "model", "model_not_found", 404)

    def _pruning(self, values: dict) -> Settings:
        """The settings of a request: the model's own, less those that are given here or as vLLM takes them."""
        nested = values.get("mm_processor_kwargs")
        if nested is not None and not isinstance(nested, dict):
            raise ChatError("mm_processor_kwargs must be an object", "mm_processor_kwargs")
        refuse_fields(nested or {}, _PRUNING, "mm_processor_kwargs")
        given = {}
        for name in _PRUNING:
            places = [place[name] for place in (values, nested or {}) if place.get(name) is not None]
            if len(places) == 2 and places[0] != places[1]:
                raise ChatError(f"{name} and mm_processor_kwargs.{name} differ", name)
            if places:
                given[name] = places[0]
        method = given.get("pruning_method", self.pruning.pruning_method)
        # The server's owner may name a file with a method; a client could run any code so.
        if method not in (*METHOD_NAMES, self.pruning.pruning_method):
            raise ChatError(f"pruning_method must be one of {', '.join(METHOD_NAMES)}", "pruning_method")
        settings = self.pruning
        for name, value in given.items():
            try:
                settings = replace(settings, **{name: value})
            except ValueError as error:
                raise ChatError(str(error), name) from error
        return settings

    def _sampling(self, values: dict) -> Sampling:
        """Temperature and the rest: the request's, the checkpoint's, or else OpenAI's defaults."""
        temperature = _number(values, "temperature", self.defaults.get("temperature", 1.0))
        if not 0 <= temperature < math.inf or 0 < temperature < 1e-4:
            raise ChatError("temperature must be 0 for greedy answers, or at least 0.0001", "temperature")
        top_p = _number(values, "top_p", self.defaults.get("top_p", 1.0))
        if not 0 < top_p <= 1:
            raise ChatError("top_p must be in (0, 1]", "top_p")
        seed = values.get("seed")
        if seed is not None and (not is_integer(seed) or not -(2**63) <= seed < 2**63):
            raise ChatError("seed must be an integer of 64 bits", "seed")
        return Sampling(temperature, top_p, self.defaults.get("top_k") or 0, seed)


def _refuse_others(values: dict) -> None:
    """Raise ChatError for a field that would change the answer and is not offered."""
    for name, value in values.items():
        if name in _READ or name in _NOTHING_TO_DO or value in EMPTY:
            continue
        if name not in _ALREADY_SO:
            raise ChatError(f"{name} is not offered by this server", name)
        if value != _ALREADY_SO[name]:
            raise ChatError(f"{name} is not offered by this server other than as {_ALREADY_SO[name]!r}", name)


def _number(values: dict, name: str, default: float) -> float:
    value = values.get(name)
    if value is None:
        return default
    if not is_integer(value) and not isinstance(value, float):
        raise ChatError(f"{name} must be a number", name)
    return float(value) if abs(value) < 2**63 else math.nan  # an integer of hundreds of digits is no float


def _max_tokens(values: dict) -> int | None:
    given = {name: values[name] for name in ("max_tokens", "max_completion_tokens") if values.get(name) is not None}
    for name, value in given.items():
        if not is_integer(value) or value < 1:
            raise ChatError(f"{name} must be an integer of at least 1", name)
    if len(set(given.values())) > 1:
        raise ChatError("max_tokens and max_completion_tokens differ", "max_tokens")
    return next(iter(given.values()), None)


def _stop(values: dict) -> tuple[str, ...]:
    stop = values.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise ChatError(f"stop must be a text or a list of up to {MOST_STOPS}, none of them empty", "stop")
    return tuple(stops)


def _streaming(values: dict) -> tuple[bool, bool]:
    """Whether to stream, and whether to end the stream with the counts."""
    stream, options = values.get("stream"), values.get("stream_options")
    if stream not in (None, True, False):
        raise ChatError("stream must be true or false", "stream")
    if options is None:
        return bool(stream), False
    if not stream or not isinstance(options, dict):
        raise ChatError("stream_options must be an object, and goes with stream alone", "stream_options")
    wanted = options.get("include_usage")
    if wanted not in (None, True, False):
        raise ChatError("stream_options.include_usage must be true or false", "stream_options")
    refuse_fields(options, ("include_usage",), "stream_options")
    return True, bool(wanted)
