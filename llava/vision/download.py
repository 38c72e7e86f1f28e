"""The bytes behind a URL, within one limit on their size and one on the time."""

import base64
import binascii
import http.client
import queue
import string
import threading
import time
import urllib.request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin, urlsplit, urlunsplit

from llava import __version__
from llava.errors import one_line

MOST_BYTES = 32 * 2**20
MOST_SECONDS = 30
MOST_REDIRECTS = 10
TOO_LARGE = f"it has more than {MOST_BYTES // 2**20} MB"
TOO_SLOW = f"it takes more than {MOST_SECONDS} seconds"
_PIECE = 2**16
_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
)


def fetch(url: str) -> bytes:
    """What an http or https address holds, also after redirects, which may lead to such addresses alone.

    A login in the address is sent to its own host alone. Raises OSError or ValueError, with one line that does not
    repeat the address, for an address that is malformed, a server that refuses or fails, a reply that is cut off, more
    than 32 MB, and more than 30 seconds in all.
    """
    # A socket's timeout is one of each single wait, and a name is looked up without any. The whole gets its limit by
    # being waited for; a thread that is given up ends with its next piece.
    outcome: queue.SimpleQueue = queue.SimpleQueue()
    deadline = time.monotonic() + MOST_SECONDS

    def work() -> None:
        try:
            outcome.put(_follow(url, deadline))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        result = outcome.get(timeout=MOST_SECONDS)
    except queue.Empty:
        raise TimeoutError(TOO_SLOW) from None
    if isinstance(result, bytes):
        return result
    raise OSError(_cause(result)) from result


def read_data_uri(uri: str) -> bytes:
    """What a `data:` URI holds. Raises ValueError, which does not repeat it, if it is malformed or above 32 MB."""
    kind, comma, payload = uri.partition(",")
    if not comma:
        raise ValueError("it has no comma before its data")
    if len(payload) > 4 * MOST_BYTES:
        raise ValueError(TOO_LARGE)
    if not kind.rstrip().lower().endswith(";base64"):
        data = unquote_to_bytes(payload)
    else:
        text = "".join(unquote(payload).split()).rstrip("=")
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("it is not base64") from error
    if len(data) > MOST_BYTES:
        raise ValueError(TOO_LARGE)
    return data


def without_login(url: str) -> str:
    """An address for a message: without the login that may be in it."""
    scheme, slashes, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return scheme + slashes + host.rpartition("@")[2] + slash + path


def _cause(error: Exception) -> str:
    """What went wrong, without the wrappings of urllib and http.client."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        error = error.reason if isinstance(error.reason, Exception) else OSError(str(error.reason))
    if isinstance(error, TimeoutError):
        return TOO_SLOW
    if isinstance(error, http.client.IncompleteRead):
        return "the reply is cut off"
    if isinstance(error, http.client.HTTPException):
        return f"the reply is not HTTP: {one_line(error)}"
    return getattr(error, "strerror", None) or one_line(error)


def _follow(url: str, deadline: float) -> bytes:
    """The reply to a request, or to the last of those that it is redirected to."""
    # Redirects are followed here because urllib's own handler reads the replies that redirect to their end.
    opener = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    for _ in range(MOST_REDIRECTS + 1):
        request = _request(url)
        try:
            with opener.open(request, timeout=max(0.001, deadline - time.monotonic())) as response:
                return _read(response, deadline)
        except HTTPError as error:
            with error:
                target = error.headers.get("Location")
                if error.code not in (301, 302, 303, 307, 308) or not target:
                    raise
            url = urljoin(url, quote(target, safe=string.punctuation, encoding="latin-1"))
    raise ValueError(f"more than {MOST_REDIRECTS} redirects")


def _request(url: str) -> urllib.request.Request:
    """The request of an address as people write it: with spaces, letters of all alphabets, and perhaps a login."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"only http and https addresses are read, not {parts.scheme or 'others'}")
    if not parts.hostname:
        raise ValueError("the address names no host")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None else f":{parts.port}"
    path, query = (quote(part, safe="/%:@!$&'()*+,;=?~") for part in (parts.path or "/", parts.query))
    address = urlunsplit((parts.scheme, host + port, path, query, ""))
    # Some servers refuse the name that urllib gives itself.
    request = urllib.request.Request(address, headers={"User-Agent": f"llava/{__version__}"})
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    return request


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """A reply's body."""
    if response.length is not None and response.length > MOST_BYTES:
        raise ValueError(TOO_LARGE)
    pieces, size = [], 0
    while piece := response.read1(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise ValueError(TOO_LARGE)
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(pieces)
