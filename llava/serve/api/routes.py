"""The addresses of the chat API: POST /v1/chat/completions, GET /v1/models and GET /v1/models/NAME."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.errors import InputError, one_line
from llava.inference.engine import Engine
from llava.inference.images import Decoded, decode_image, encode_images
from llava.inference.request import Request as Question
from llava.inference.streaming import AnswerStream, Draw, PromptTooLong
from llava.model.template import Template
from llava.pruning import MethodError, PruningError, method_label
from llava.serve.api.messages import Layout
from llava.serve.api.schema import ChatError, ChatRequest, read_request
from llava.serve.queue import Queue, QueueFull
from llava.serve.texts import refuse_endless
from llava.vision.download import fetch, without_login
from llava.vision.pictures import check_pixels, is_data_uri

try:
    from fastapi import APIRouter, Request, Response
    from fastapi.responses import JSONResponse, StreamingResponse
    from fastapi.routing import APIRoute
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise InputError("the HTTP API needs FastAPI: pip install -e '.[demo]'") from error

MOST_BYTES = 48 * 2**20  # of a request: one picture as large as may be, in base64
MOST_FETCHED = 48 * 2**20  # bytes at the URLs of one request
MOST_PICTURES = 64  # of one request
RETRY_AFTER = 10  # seconds, where the queue is full
_CLIENT_GONE = 499  # for the log: nobody is there to read it
_decoding = threading.BoundedSemaphore(2)
logger = logging.getLogger(__name__)


def make_router(
    engine: Engine, model_name: str, *, template: Template, allow_urls: bool, turn: AbstractContextManager
) -> APIRouter:
    """The API of a model, to be included in an app before what that mounts at `/`.

    Args:
        engine: answers; the model's pruning settings hold where a request names none.
        model_name: what clients call the model.
        template: how a conversation becomes a prompt.
        allow_urls: whether pictures may be http(s) URLs, which this machine then fetches, its own network included.
        turn: entered while an answer is made, from a thread of its own: it limits how many are made at once.
    """
    router, model = APIRouter(route_class=_Route), engine.model
    layout, default = Layout(model.config, template.conversation(), allow_urls), model.pruning
    card = {"id": model_name, "object": "model", "created": int(time.time()), "owned_by": "llava"}
    card["max_model_len"] = engine.loaded.context_len

    def read(body: bytes) -> tuple[ChatRequest, Question]:
        chat = read_request(body)
        if chat.model not in (None, model_name):
            raise unknown(chat.model)
        prompt, pictures = layout.lay_out(chat.messages)
        return chat, Question(prompt, pictures, chat.pruning(default), "the conversation")

    def unknown(name: Any) -> ChatError:
        message = f"the model {name!r} does not exist: this server has {model_name!r}"
        return ChatError(message, "model", "model_not_found", 404)

    @router.post("/v1/chat/completions", response_model=None)
    async def complete(request: Request) -> Response:
        chat, question = await asyncio.to_thread(read, await _body(request))
        events = _in_thread(lambda *ends: _answer(engine, chat, question, turn, *ends), request)
        return await _respond(chat, events, model_name)

    @router.get("/v1/models", response_model=None)
    async def models() -> dict:
        return {"object": "list", "data": [card]}

    @router.get("/v1/models/{name:path}", response_model=None)
    async def one_model(name: str) -> dict:
        if name != model_name:
            raise unknown(name)
        return card

    return router


class _Route(APIRoute):
    """Puts every error into OpenAI's form."""

    def get_route_handler(self) -> Callable:
        handle = super().get_route_handler()

        async def handle_or_refuse(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientDisconnect:
                return Response(status_code=_CLIENT_GONE)
            except Exception as error:
                status, body = _error_body(error)
                return JSONResponse(body, status, {"Retry-After": str(RETRY_AFTER)} if status == 429 else None)

        return handle_or_refuse


async def _body(request: Request) -> bytes:
    """What a client sent. Raises ChatError for more than 48 MB and for what does not call itself JSON."""
    # Another site's page may send what calls itself text without the browser asking this server.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ChatError("the request must have the header Content-Type: application/json", status=415)
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MOST_BYTES:
            raise ChatError(f"the request has more than {MOST_BYTES // 2**20} MB", status=413)
        pieces.append(piece)
    return b"".join(pieces)


Event = AnswerStream | str


def _answer(
    engine: Engine,
    chat: ChatRequest,
    question: Question,
    turn: AbstractContextManager,
    cancelled: threading.Event,
    emit: Callable[[Event], None],
) -> None:
    """Answer a question: `emit` gets the stream, whose prompt is good, and then its pieces.

    What needs no model is done before its turn: a large picture, a long text or a slow address holds up nobody else.
    """
    refuse_endless(question.prompt, engine.tokenizer, engine.loaded.context_len, cancelled)
    if cancelled.is_set():
        return
    ids = tokenizer_image_token(question.prompt, engine.tokenizer)
    _check_room(engine, len(ids), chat.limit)
    question = replace(question, images=_decoded(engine, question, cancelled)).with_settings(engine.model.pruning)
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": chat.limit}
    if draw := _draw(chat, engine.model.sampling_defaults):
        options["logits_processor"] = [draw]
    with _turn(turn, cancelled):
        encoded = []
        for image in question.images:
            if not cancelled.is_set():
                encoded += encode_images(engine.loaded, [image], question.name)
        if cancelled.is_set():
            return
        try:
            question = replace(question, images=tuple(encoded))
            stream = engine.stream(question, stop=chat.stop, cancelled=cancelled, **options)
            _check_room(engine, stream.prompt_tokens, chat.limit)
            emit(stream)
            for piece in stream:
                emit(piece)
        except MethodError:
            raise
        except PruningError as error:  # this model cannot serve the method
            method = method_label(question.pruning.pruning_method)
            raise ChatError(f"pruning_method {method}: {error}", "pruning_method") from error


@contextlib.contextmanager
def _turn(turn: AbstractContextManager, cancelled: threading.Event) -> Iterator[None]:
    """Enter `turn`; a place in a queue is left when the client goes, before its turn."""
    with turn.enter() if isinstance(turn, Queue) else turn as place:
        while isinstance(turn, Queue) and not (cancelled.is_set() or place.wait(0.2)):
            pass
        yield


def _draw(chat: ChatRequest, defaults: dict) -> Draw | None:
    """How tokens are drawn, by the request, the checkpoint, or else as by OpenAI; None for greedy answers."""
    given = {name: getattr(chat, name) for name in ("temperature", "top_p") if getattr(chat, name) is not None}
    sampling = {"temperature": 1.0, "top_p": 1.0} | defaults | given
    if not sampling["temperature"]:
        return None
    return Draw(sampling["temperature"], sampling["top_p"], sampling.get("top_k") or 0, chat.seed)


def _check_room(engine: Engine, length: int, wanted: int | None) -> None:
    """Raise ChatError unless the answer to a prompt of so many tokens may have those that are wanted, or one."""
    context = engine.loaded.context_len
    if (left := context - length) < (wanted or 1):
        answer = f" and the answer may take {wanted}" if wanted else ""
        raise ChatError(
            f"the context is full: it has {context} tokens, the prompt takes {length} of them{answer}",
            "max_tokens" if wanted and left >= 1 else "messages",
            "context_length_exceeded",
        )


def _decoded(engine: Engine, question: Question, cancelled: threading.Event) -> tuple[Decoded, ...]:
    """A question's pictures, ready to be encoded; not all of them if the client has gone.

    Raises InputError for what cannot be fetched or read, and ChatError for too many, before any is decoded.
    """
    if len(question.images) > MOST_PICTURES:
        raise ChatError(f"the conversation has {len(question.images)} pictures, at most {MOST_PICTURES}", "messages")
    pictures, left = [], MOST_FETCHED
    for picture in question.images:
        if cancelled.is_set():
            return ()
        if not is_data_uri(picture):
            try:
                picture = fetch(picture)
            except (OSError, ValueError) as error:
                raise InputError(f"cannot read the image {without_login(picture)}: {one_line(error)}") from error
            left -= len(picture)
            if left < 0:
                raise InputError(f"the images at the URLs have more than {MOST_FETCHED // 2**20} MB together")
        pictures.append(picture)
    check_pixels(pictures, f"of {question.name}")
    decoded = []
    for picture in pictures:
        with _decoding:  # a large one takes memory
            if cancelled.is_set():
                return ()
            decoded.append(decode_image(engine.loaded, picture, question.name))
    return tuple(decoded)


async def _in_thread(
    work: Callable[[threading.Event, Callable[[Event], None]], None], request: Request
) -> AsyncIterator[Event]:
    """What `work` emits in a thread of its own; raises what it raises.

    When the client goes away, or this generator is closed, `work` is notified, and this ends.
    """
    loop, events, gone = asyncio.get_running_loop(), asyncio.Queue(), threading.Event()

    def emit(event: Event | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(events.put_nowait, event)

    def run() -> None:
        try:
            work(gone, emit)
            emit(None)
        except Exception as error:
            emit(error)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()
        events.put_nowait(None)

    threading.Thread(target=run, name="answering").start()
    watcher = asyncio.create_task(watch())
    try:
        while (event := await events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        gone.set()
        watcher.cancel()


async def _respond(chat: ChatRequest, events: AsyncIterator[Event], model_name: str) -> Response:
    answer = await anext(events, None)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_name}
    if answer is not None and chat.stream:
        include_usage = chat.stream_options is not None and chat.stream_options.include_usage
        chunks = _chunks(events, answer, head, include_usage)
        return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    async for _ in events:
        pass
    if answer is None or answer.finish_reason is None:
        return Response(status_code=_CLIENT_GONE)
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(answer)})


async def _chunks(
    events: AsyncIterator[Event], answer: AnswerStream, head: dict, include_usage: bool
) -> AsyncIterator[str]:
    """The server-sent events of a streamed answer."""
    head = head | {"object": "chat.completion.chunk"}
    usage = {"usage": None} if include_usage else {}

    def chunk(delta: dict, reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _sse({**head, "choices": [choice], **usage})

    async with contextlib.aclosing(events):
        try:
            yield chunk({"role": "assistant", "content": ""})
            async for piece in events:
                yield chunk({"content": piece})
            yield chunk({}, answer.finish_reason)
            if include_usage:
                yield _sse({**head, "choices": [], "usage": _usage(answer)})
        except Exception as error:
            yield _sse(_error_body(error)[1])
    yield "data: [DONE]\n\n"


def _usage(answer: AnswerStream) -> dict[str, int]:
    prompt, new = answer.prompt_tokens, answer.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _error_body(error: Exception) -> tuple[int, dict]:
    """The HTTP status and OpenAI's error body for what went wrong; the cause of a bug stays in the server's log."""
    status, kind, param, code = 400, "invalid_request_error", None, None
    if isinstance(error, ChatError):
        status, param, code = error.status, error.param, error.code
    elif isinstance(error, QueueFull):
        status, kind, code = 429, "requests", "rate_limit_exceeded"
    elif isinstance(error, PromptTooLong):
        param, code = "messages", "context_length_exceeded"
    elif isinstance(error, MethodError):
        logger.error("a chat request failed", exc_info=error)
        status, kind, param = 500, "server_error", "pruning_method"
    elif not isinstance(error, InputError):
        logger.error("a chat request failed", exc_info=error)
        status, kind, error = 500, "server_error", RuntimeError("the server failed: its log says why")
    message = " ".join(str(error).split())
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _sse(values: dict) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"
