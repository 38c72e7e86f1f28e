"""The page's HTTP headers: a browser fetches nothing from another host, whatever the page contains."""

from collections.abc import Awaitable, Callable, MutableMapping

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class OwnHostOnly:
    """ASGI middleware that adds these headers to every response."""

    def __init__(self, app: Callable[..., Awaitable]) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping, receive: Callable, send: Callable) -> None:
        async def send_with_headers(message: MutableMapping) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_with_headers)
