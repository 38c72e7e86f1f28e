"""Who may be asked for, and from which pages: against sites that make a visitor's browser ask this server for them."""

import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\]\\]+)(?::\d*)?", re.IGNORECASE)
_READING = ("GET", "HEAD")


class OwnNamesOnly:
    """ASGI middleware that serves requests to this server's own names, and of pages of other sites only what is read.

    A site that lets its own name lead to this machine (DNS rebinding) would be the same origin to a browser; its
    requests have that name. A request from another origin is answered without permission to read the answer, and
    refused where it is not one that reads: the browser sends those without asking.
    """

    def __init__(self, app: Callable[..., Awaitable], listens: str, allowed: list[str]) -> None:
        """
        Args:
            app: what is served.
            listens: the address that the server listens on.
            allowed: further names, which are also those of pages that may ask from another port or scheme.
        """
        self._app, self._allowed = app, {_plain(name) for name in allowed}
        self._names = {"localhost", _plain(socket.gethostname()), _plain(socket.getfqdn())} | self._allowed
        self._is_local = _is_loopback(listens)

    async def __call__(self, scope: MutableMapping, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, is_foreign = headers.get(b"host", ""), self._is_foreign(headers)
        if not self._serves(host):
            why = f"this server is not called {host[:100]!r}: start it with --allow-host NAME to serve another name"
        elif is_foreign and scope.get("method") not in _READING:
            why = "this server takes no requests from pages of other sites"
        else:
            return await self._app(scope, receive, _without_permission(send) if is_foreign else send)
        await _refuse(scope, send, why)

    def _serves(self, host: str) -> bool:
        """Whether a `Host` header is a name of this server: an address too, which no site can let lead here.

        A server that listens on the loopback has no other addresses.
        """
        found = _HOST.fullmatch(host)
        name = _plain(found[1]) if found else ""
        return name in self._names or (_is_address(name) and (not self._is_local or _is_loopback(name)))

    def _is_foreign(self, headers: dict[bytes, str]) -> bool:
        """Whether a page of another origin asks."""
        origin = headers.get(b"origin")
        if origin is None:  # older browsers send it with some requests alone
            return headers.get(b"sec-fetch-site") in ("cross-site", "same-site")
        scheme, _, place = origin.lower().partition("://")
        found = _HOST.fullmatch(place)
        if not found or scheme not in ("http", "https"):
            return True
        return place != headers.get(b"host", "").lower() and _plain(found[1]) not in self._allowed


def _plain(name: str) -> str:
    """A host's name as it is compared."""
    return name.strip("[]").rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _without_permission(send: Callable) -> Callable:
    """`send`, without headers that let a page of another site read the answer."""

    async def send_without(message: MutableMapping) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if not pair[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": kept}
        await send(message)

    return send_without


async def _refuse(scope: MutableMapping, send: Callable, why: str) -> None:
    """Answer 403 with the reason, in OpenAI's form."""
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008, "reason": why[:100]})
    error = {"message": why, "type": "invalid_request_error", "param": None, "code": None}
    await send_json(send, 403, {"error": error})


async def send_json(send: Callable, status: int, values: dict) -> None:
    """Answer a request of a middleware with JSON."""
    body = json.dumps(values).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
