"""The bytes of a URL, within one limit on their size and one on the time."""

from __future__ import annotations

import base64
import binascii
import queue
import string
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_to_bytes

from llava import __version__
from llava.errors import one_line

if TYPE_CHECKING:
    import httpx2

MOST_BYTES = 32 * 2**20
MOST_SECONDS = 30
MOST_REDIRECTS = 10
TOO_LARGE = f"it has more than {MOST_BYTES // 2**20} MB"
TOO_SLOW = f"it takes more than {MOST_SECONDS} seconds"


def fetch(url: str) -> bytes:
    """What an http or https address holds, also after redirects, which may lead to such addresses alone.

    A login in the address is sent to its own host alone. Raises OSError, with one line that does not repeat the
    address, for an address that is invalid, a server that refuses or fails, a reply that is cut off, more than 32 MB,
    and more than 30 seconds in all.
    """
    import httpx2

    # A timeout of httpx is one of each single wait, and looking up a name has none. So the whole is waited for; leaving
    # the client closes its connection, and a thread that is given up ends there.
    outcome: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    # Some servers refuse the names that libraries give themselves. What is encoded could be far larger than it says.
    headers = {"User-Agent": f"llava/{__version__}", "Accept-Encoding": "identity"}
    with httpx2.Client(headers=headers, timeout=MOST_SECONDS) as client:

        def work() -> None:
            try:
                outcome.put(_follow(client, url.strip()))
            except Exception as error:
                outcome.put(error)

        threading.Thread(target=work, name="fetching", daemon=True).start()
        try:
            result = outcome.get(timeout=MOST_SECONDS)
        except queue.Empty:
            raise TimeoutError(TOO_SLOW) from None
    if isinstance(result, bytes):
        return result
    raise OSError(_cause(result)) from result


def _follow(client: httpx2.Client, url: str) -> bytes:
    """The reply to a request, or to the last of those that it is redirected to."""
    import httpx2

    address = httpx2.URL(url)
    # Redirects are followed here because httpx reads the replies that redirect to their end.
    for _ in range(MOST_REDIRECTS + 1):
        if address.scheme not in ("http", "https"):
            raise ValueError(f"only http and https addresses are read, not {address.scheme or 'others'}")
        if not address.host:
            raise ValueError("the address names no host")
        if address.port and address.port > 65535:  # the system would take it modulo 65536
            raise ValueError(f"there is no port {address.port}")
        with client.stream("GET", address) as response:
            if response.has_redirect_location:
                response.headers.encoding = "latin-1"  # its bytes, whatever they are in
                target = quote(response.headers["Location"], safe=string.punctuation, encoding="latin-1")
                address = address.join(target)
            elif not response.is_success:
                raise ValueError(f"the server answers {response.status_code} {response.reason_phrase}")
            else:
                return _read(response)
    raise ValueError(f"more than {MOST_REDIRECTS} redirects")


def _read(response: httpx2.Response) -> bytes:
    """A reply's body."""
    import httpx2

    if int(response.headers.get("Content-Length", 0)) > MOST_BYTES:
        raise ValueError(TOO_LARGE)
    body = bytearray()
    try:
        for piece in response.iter_raw():
            body += piece
            if len(body) > MOST_BYTES:
                raise ValueError(TOO_LARGE)
    except httpx2.RemoteProtocolError as error:
        raise ValueError("the reply is cut off") from error
    return bytes(body)


def _cause(error: Exception) -> str:
    """What went wrong, without the wrappings of httpx."""
    import httpx2

    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return TOO_SLOW
    if isinstance(error, httpx2.RemoteProtocolError):
        return f"the reply is not HTTP: {one_line(error)}"
    if isinstance(error, httpx2.TransportError):
        while not isinstance(error, OSError) and error.__context__:  # down to the system's
            error = error.__context__
    return getattr(error, "strerror", None) or one_line(error)


def read_data_uri(uri: str) -> bytes:
    """What a `data:` URI holds; base64 may be of the URL alphabet too.

    Raises ValueError, which does not repeat it, if it is malformed or above 32 MB.
    """
    kind, comma, payload = uri.partition(",")
    if not comma:
        raise ValueError("it has no comma before its data")
    if len(payload) > 4 * MOST_BYTES:
        raise ValueError(TOO_LARGE)
    if not kind.rstrip().lower().endswith(";base64"):
        data = unquote_to_bytes(payload)
    else:
        text = "".join(unquote(payload).split()).rstrip("=").replace("-", "+").replace("_", "/")
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("it is not base64") from error
    if len(data) > MOST_BYTES:
        raise ValueError(TOO_LARGE)
    return data


def without_login(url: str) -> str:
    """An address for a message: in one line, and without the login that may be in it."""
    scheme, slashes, rest = " ".join(url.split()).partition("://")
    host, slash, path = rest.partition("/")
    return scheme + slashes + host.rpartition("@")[2] + slash + path
