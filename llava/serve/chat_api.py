"""OpenAI's chat completions over HTTP, for machines without vLLM: `add_routes` adds them to a FastAPI app."""

import asyncio
import contextlib
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from llava.errors import InputError
from llava.files import parse_json
from llava.serve.chat_answer import Begun, Done, answer
from llava.serve.chat_messages import ChatError
from llava.serve.chat_request import ChatQuestion, ChatReader

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse, StreamingResponse
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise InputError("the HTTP API needs FastAPI: pip install -e '.[demo]'") from error

Event = Begun | str | Done
MOST_BYTES = 48 * 2**20  # of a request: one picture as large as may be, in base64
_CLIENT_GONE = 499  # for the log: nobody is there to read it
logger = logging.getLogger(__name__)


def add_routes(
    app: FastAPI, loaded: tuple, model_name: str, *, allow_urls: bool, turn, conv_mode: str | None = None
) -> None:
    """Add POST /v1/chat/completions, GET /v1/models and GET /v1/models/NAME to an app, before what it mounts at `/`.

    Args:
        app: the app.
        loaded: what `load_pretrained_model` returned; its budget holds where a request names none.
        model_name: what clients call the model.
        allow_urls: whether pictures may be http(s) URLs, which this machine then fetches, its own network included.
        turn: a context manager that is entered while an answer is made, from a thread of its own: a semaphore.
        conv_mode: the prompt template; the checkpoint's own if None.

    Raises InputError for an unknown template.
    """
    reader = ChatReader(loaded[1], model_name, conv_mode, allow_urls)
    card = {"id": model_name, "object": "model", "created": int(time.time()), "owned_by": "llava"}
    card["max_model_len"] = loaded[3]

    async def complete(request: Request) -> Response:
        try:
            question = await asyncio.to_thread(_read, reader, await _body(request))
            events = _in_thread(lambda *ends: answer(loaded, question, turn, *ends), request)
            return await _respond(question, events, model_name)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
        except Exception as error:
            return _refusal(error)

    async def models(request: Request) -> Response:
        return _json({"object": "list", "data": [card]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        return _json(card) if name == model_name else _refusal(reader.unknown(name))

    app.add_route("/v1/chat/completions", complete, methods=["POST"])
    app.add_route("/v1/models", models, methods=["GET"])
    app.add_route("/v1/models/{name:path}", model, methods=["GET"])


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


def _read(reader: ChatReader, body: bytes) -> ChatQuestion:
    try:
        text = body.decode()
        values = parse_json(text, "the request")
        if re.search(r"\\u[dD][89a-fA-F]", text):  # half a surrogate pair has no place in UTF-8
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise ChatError("the request is not JSON in UTF-8") from error
    return reader.read(values)


async def _in_thread(
    work: Callable[[threading.Event, Callable[[Event], None]], None], request: Request
) -> AsyncIterator[Event]:
    """What `work` emits in a thread of its own; raises what it raises.

    When the client goes away, or this generator is closed, `work` is told, and this ends.
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


async def _respond(question: ChatQuestion, events: AsyncIterator[Event], model_name: str) -> Response:
    begun = await anext(events, None)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_name}
    if begun is not None and question.stream:
        chunks = _chunks(events, begun, head, question.include_usage)
        return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    done = None
    async for event in events:
        done = event
    if not isinstance(done, Done):
        return Response(status_code=_CLIENT_GONE)
    message = {"role": "assistant", "content": done.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.finish_reason}
    return _json({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(begun, done)})


async def _chunks(events: AsyncIterator[Event], begun: Begun, head: dict, include_usage: bool) -> AsyncIterator[str]:
    """The server-sent events of a streamed answer."""
    head = head | {"object": "chat.completion.chunk"}
    usage = {"usage": None} if include_usage else {}

    def chunk(delta: dict, reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _sse({**head, "choices": [choice], **usage})

    async with contextlib.aclosing(events):
        try:
            yield chunk({"role": "assistant", "content": ""})
            async for event in events:
                if isinstance(event, str):
                    yield chunk({"content": event})
                    continue
                yield chunk({}, event.finish_reason)
                if include_usage:
                    yield _sse({**head, "choices": [], "usage": _usage(begun, event)})
        except Exception as error:
            yield _sse(_error_body(error)[1])
    yield "data: [DONE]\n\n"


def _usage(begun: Begun, done: Done) -> dict:
    total = begun.prompt_tokens + done.completion_tokens
    return {
        "prompt_tokens": begun.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": total,
    }


def _refusal(error: Exception) -> Response:
    status, body = _error_body(error)
    return _json(body, status)


def _error_body(error: Exception) -> tuple[int, dict]:
    """The HTTP status and OpenAI's error body for what went wrong; the cause of a bug stays in the server's log."""
    status, kind, param, code = 400, "invalid_request_error", None, None
    if isinstance(error, ChatError):
        status, param, code = error.status, error.param, error.code
    elif not isinstance(error, InputError):
        logger.error("a chat request failed", exc_info=error)
        status, kind, error = 500, "server_error", RuntimeError("the server failed: its log says why")
    message = " ".join(str(error).split())
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _json(values: Any, status: int = 200) -> Response:
    return JSONResponse(values, status)


def _sse(values: dict) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"
