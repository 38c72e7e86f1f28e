"""What a browser may send to the page: Gradio trusts it, and answers what it does not expect with tracebacks."""

import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import unquote

from llava.serve.hosts import send_json

MOST_EVENT = 2**20  # bytes
MOST_UPLOADS = 4096  # that are remembered
COOKIE = "llava_visitor"
_API = "/gradio_api/"
_READ = ("queue/data", "upload_progress", "info", "app_id", "user", "startup-events", "login_check", "theme.css")
_EVENTS = ("queue/join", "run/predict")  # those that may wait, and those that must not
_SENT = (*_EVENTS, "cancel", "reset", "upload")


class Uploads:
    """The files that were uploaded, and by whom: a browser is known by a cookie. A file can be taken once."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, set[str]] = OrderedDict()
        self._new: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def add(self, path: str, visitor: str) -> None:
        with self._lock:
            self._owners.setdefault(path, set()).add(visitor)
            self._new.add((path, visitor))
            while len(self._owners) > MOST_UPLOADS:
                old, visitors = self._owners.popitem(last=False)
                self._new -= {(old, one) for one in visitors}

    def may_see(self, path: str, visitor: str) -> bool:
        """Whether a file was not uploaded by others alone."""
        return visitor in self._owners.get(path, {visitor})

    def is_new(self, path: str, visitor: str) -> bool:
        """Whether this visitor has uploaded the file, and not taken it yet."""
        return (path, visitor) in self._new

    def take(self, path: str, visitor: str) -> bool:
        """Whether `is_new` was true; it is no longer."""
        with self._lock:
            was_new = (path, visitor) in self._new
            self._new.discard((path, visitor))
        return was_new

    def is_wanted(self, path: str) -> bool:
        """Whether another visitor has uploaded the same file, and not taken it yet."""
        return any(self.is_new(path, visitor) for visitor in tuple(self._owners.get(path, ())))


class Refused(Exception):
    """A request that is not one of the page's: the HTTP status and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class OwnEventsOnly:
    """ASGI middleware that lets through what the page itself sends."""

    def __init__(self, app: Callable[..., Awaitable], blocks, uploads: Uploads) -> None:
        """`blocks` is the page in Gradio."""
        self._app, self._blocks, self._uploads = app, blocks, uploads

    async def __call__(self, scope: MutableMapping, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_API):
            return await self._app(scope, receive, send)
        what, reads = scope["path"].removeprefix(_API).rstrip("/"), scope["method"] in ("GET", "HEAD")
        visitor = _visitor(scope)
        try:
            if reads and what.startswith("file="):
                if "\0" in what or not self._uploads.may_see(unquote(what.removeprefix("file=")), visitor):
                    raise Refused(404, "there is no such file")
            elif what not in (_READ if reads else _SENT) and not (reads and what.startswith("heartbeat/")):
                raise Refused(404, "the page has no such address")
            elif what == "upload":
                visitor, is_known = visitor or secrets.token_urlsafe(16), bool(visitor)
                send = self._remembering(send, visitor, is_known)
            elif not reads:
                body = await _body(receive)
                receive = _replay(self._event(body, visitor) if what in _EVENTS else body, receive)
                scope = _without_length(scope)
        except Refused as refused:
            return await send_json(send, refused.status, {"detail": str(refused)})
        await self._app(scope, receive, send)

    def _event(self, body: bytes, visitor: str) -> bytes:
        """An event as Gradio can take it. Raises Refused for one that the page does not have."""
        try:
            sent = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "an event must be JSON") from error
        sent = sent if isinstance(sent, dict) else {}
        number, data, event_data = sent.get("fn_index"), sent.get("data"), sent.get("event_data")
        function = self._blocks.fns.get(number) if type(number) is int else None
        if function is None or function.fn is None:  # what a browser does itself
            raise Refused(400, "fn_index: the page has no such event")
        if not isinstance(data, list) or len(data) != len(function.inputs):
            raise Refused(400, f"data: the event has {len(function.inputs)} inputs")
        if any(name == "select" for _, name in function.targets):
            if not isinstance(event_data, dict) or type(event_data.get("index")) is not int:
                raise Refused(400, "event_data: it has no index")
            event_data = {"index": event_data["index"], "value": None}
        session, trigger = sent.get("session_hash"), sent.get("trigger_id")
        if not isinstance(session, str) or not 0 < len(session) <= 64:
            raise Refused(400, "session_hash must be a text of up to 64 characters")
        return json.dumps(
            {
                "fn_index": number,
                "data": [self._own(value, component, visitor) for value, component in zip(data, function.inputs)],
                "event_data": event_data,
                "session_hash": session,
                "trigger_id": trigger if type(trigger) is int else None,
            }
        ).encode()

    def _own(self, value: object, component, visitor: str) -> object:
        """An input's value: a number or a text, or of a component that takes files one that this visitor uploaded."""
        if component.data_model is None:
            return None if isinstance(value, list | dict) else value
        path = value.get("path") if isinstance(value, dict) else None
        is_own = isinstance(path, str) and self._uploads.is_new(path, visitor)
        return {"path": path, "meta": {"_type": "gradio.FileData"}} if is_own else None

    def _remembering(self, send: Callable, visitor: str, is_known: bool) -> Callable:
        """`send` of the answer to an upload, which names the files, and tells a new visitor who he is."""
        status, body = 0, b""

        async def send_and_remember(message: MutableMapping) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
                if not is_known:
                    cookie = f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite=Strict".encode()
                    message = {**message, "headers": [*message.get("headers", ()), (b"set-cookie", cookie)]}
            elif message["type"] == "http.response.body" and status == 200:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    for path in json.loads(body):
                        self._uploads.add(path, visitor)
            await send(message)

        return send_and_remember


def _visitor(scope: MutableMapping) -> str:
    """The cookie of a browser that has uploaded something; empty for others."""
    sent = b"; ".join(value for name, value in scope["headers"] if name == b"cookie").decode("latin-1")
    try:
        cookie = SimpleCookie(sent).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


async def _body(receive: Callable) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MOST_EVENT:
            raise Refused(413, f"an event has at most {MOST_EVENT // 2**20} MB")
        if not message.get("more_body"):
            return b"".join(pieces)


def _replay(body: bytes, receive: Callable) -> Callable:
    """`receive` that begins with a body that was read already."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> MutableMapping:
        return left.pop() if left else await receive()

    return receive_again


def _without_length(scope: MutableMapping) -> MutableMapping:
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"content-length"]}
