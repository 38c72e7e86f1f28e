"""Pictures by URL, from a server inside the test."""

import base64
import contextlib
import gzip
import socket
import socketserver
import threading

import pytest

from llava import __version__
from llava.errors import InputError
from llava.vision import download
from llava.vision.pictures import load_image
from tests.conftest import encode, picture

PNG = encode(picture())
HEAD = b"HTTP/1.1 200 OK\r\n"


def reply(body: bytes, length: int | None = None, status: bytes = HEAD) -> bytes:
    return status + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def redirect(target: str, code: int = 302) -> bytes:
    return f"HTTP/1.1 {code} Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.fixture
def serve(monkeypatch):
    """serve(answer) -> address, requests: `answer` is bytes, or a function of the request and a way to send bytes."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(answer) -> tuple[str, list[str]]:
        requests: list[str] = []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                data = b""
                while b"\r\n\r\n" not in data and (more := self.request.recv(65536)):
                    data += more
                requests.append(data.decode())
                with contextlib.suppress(OSError):
                    made = answer(data.decode(), self.request.sendall) if callable(answer) else answer
                    self.request.sendall(made or b"")

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def failure(url: str) -> str:
    with pytest.raises(InputError) as error:
        load_image(url)
    message = str(error.value)
    assert message.startswith("cannot read the image ") and "\n" not in message
    return message


def test_a_picture_is_read(serve):
    url, requests = serve(reply(PNG))
    assert load_image(f"{url}/a.png").tobytes() == picture().tobytes()
    assert load_image(url.upper().replace("HTTP", "hTTp")).size == (200, 150)
    assert f"User-Agent: llava/{__version__}\r\n" in requests[0]
    assert "Accept-Encoding: identity\r\n" in requests[0]


def test_the_pieces_of_a_reply_are_joined(serve):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PNG[:100], PNG[100:]))
    url, _ = serve(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert load_image(url).size == (200, 150)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/my picture.png", "/my%20picture.png"),
        ("/bäume/ä.png?q=ö ü", "/b%C3%A4ume/%C3%A4.png?q=%C3%B6%20%C3%BC"),
        ("/a%20b.png?x=1&y=%2F#part", "/a%20b.png?x=1&y=%2F"),
        ("", "/"),
    ],
)
def test_addresses_are_asked_for_as_people_write_them(serve, path, asked):
    url, requests = serve(reply(PNG))
    load_image(url + path)
    assert requests[0].startswith(f"GET {asked} HTTP/1.1\r\n")


def test_a_login_is_sent_and_never_shown(serve):
    url, requests = serve(reply(PNG))
    load_image(url.replace("//", "//me:s%40cret@"))
    assert f"Authorization: Basic {base64.b64encode(b'me:s@cret').decode()}\r\n" in requests[0]
    refused, _ = serve(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    for address in (refused, "http://127.0.0.1:99999", "http://127.0.0.1:x"):
        assert "s@cret" not in failure(address.replace("//", "//me:s@cret@"))
        assert "cret" not in failure(address.replace("//", "//me:s%40cret@"))


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"nonsense\r\n\r\n", "not HTTP"),
        (b"", "not HTTP"),
        (HEAD + b"X: " + b"x" * 200_000 + b"\r\n\r\n", "not HTTP"),
        (HEAD + b"X: 1\r\n" * 40_000 + b"\r\n", "not HTTP"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n", "500"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "302"),
        (reply(b""), "not a picture"),
        (reply(b"<html>"), "not a picture"),
        (reply(PNG, len(PNG) + 10), "cut off"),
        (reply(PNG[:100], len(PNG)), "cut off"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n" + PNG[:100], "cut off"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + PNG, "cut off"),
        (reply(b"", 2**40), "more than 32 MB"),
        (HEAD + b"\r\n" + PNG[:100], "truncated"),
        (redirect("file:///etc/passwd"), "only http and https"),
        (redirect("ftp://127.0.0.1/a.png"), "only http and https"),
        (redirect("data:image/png;base64,AAAA"), "only http and https"),
        (redirect("http://me:secret@127.0.0.1:1/"), "Connection refused"),
        (redirect("http://127.0.0.1:99999/"), "no port 99999"),
        (redirect("http://none.invalid/a.png"), ""),
        (redirect("http://[/"), ""),
        (redirect("/again"), "more than 10 redirects"),
    ],
)
def test_a_reply_that_is_no_picture_is_one_line(serve, answer, cause):
    url, _ = serve(answer)
    message = failure(f"{url}/a.png")
    assert f"{url}/a.png" in message and cause in message and "secret" not in message


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://", "no host"),
        ("http:///a.png", "no host"),
        ("http://[::1/a.png", ""),
        ("http://127.0.0.1:1/", "refused"),
        ("http://127.0.0.1:99999/", "no port 99999"),
        ("http://127.0.0.1:x/", "ort"),
        ("http://" + "a" * 70 + ".ä/", ""),
        ("http://none.invalid/a.png", ""),
        ("http://127.0.0.1:1/\ud800", ""),
        ("http://\r\nX: 1/", ""),
        ("ftp://127.0.0.1/a.png", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
    ],
)
def test_an_address_that_cannot_be_asked_is_one_line(url, cause):
    assert cause in failure(url)


def test_redirects_are_followed(serve):
    there, asked = serve(reply(PNG))
    for code in (301, 302, 303, 307, 308):
        url, _ = serve(redirect(f"{there}/my picture.png", code))
        assert load_image(url.replace("//", "//me:secret@")).size == (200, 150)
    assert len(asked) == 5 and not any("Authorization" in request for request in asked)
    url, asked = serve(lambda request, _: redirect("/b.png") if "/a.png" in request else reply(PNG))
    load_image(url.replace("//", "//me:secret@") + "/a.png")
    assert len(asked) == 2 and all("Authorization" in request for request in asked)


def test_names_of_private_addresses_are_fetched_like_others(serve):
    """Who may ask for them is said by --allow-urls; a redirect to one is followed, without the login."""
    there, asked = serve(reply(PNG))
    named = there.replace("127.0.0.1", "localhost")
    assert load_image(f"{named}/a.png").size == (200, 150)
    url, _ = serve(redirect(f"{named}/b.png"))
    load_image(url.replace("//", "//me:secret@"))
    assert [request.split()[1] for request in asked] == ["/a.png", "/b.png"]
    assert not any("Authorization" in request for request in asked)


def test_a_redirect_in_other_bytes_than_utf_8_is_followed_by_its_bytes(serve):
    url, asked = serve(
        lambda request, send: (
            reply(PNG) if "%" in request else send(b"HTTP/1.1 302 Found\r\nLocation: /\xe4.png\r\n\r\n")
        )
    )
    load_image(url)
    assert asked[1].startswith("GET /%E4.png HTTP/1.1\r\n")


def test_a_compressed_reply_is_not_unpacked(serve):
    packed = gzip.compress(bytes(2**26))  # 64 MB in 64 kB
    url, _ = serve(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
    assert "not a picture" in failure(url)


@pytest.mark.parametrize("status", [HEAD, b"HTTP/1.1 302 Found\r\nLocation: /again\r\n"])
def test_a_reply_without_end_is_not_taken_in(serve, status):
    sent = []

    def endless(_, send):
        send(status + b"\r\n")
        while sum(sent) < 2**28:
            send(bytes(2**20))
            sent.append(2**20)

    url, _ = serve(endless)
    assert "MB" in failure(url) or status != HEAD
    assert sum(sent) < 2**27


@pytest.mark.parametrize(
    "start", [b"", HEAD, HEAD + b"X: ", HEAD + b"\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1"]
)
def test_time_is_limited_in_all(serve, monkeypatch, start):
    monkeypatch.setattr(download, "MOST_SECONDS", 0.5)
    end = threading.Event()

    def slow(_, send):  # for ten seconds: whoever waits for its end sees another failure
        send(start)
        for _ in range(100):
            if end.wait(0.1):
                return
            send(b"0")

    url, _ = serve(slow)
    try:
        assert "it takes more than" in failure(url)
        for thread in threading.enumerate():  # its connection is closed, though the server goes on
            if thread.name == "fetching":
                thread.join(timeout=5)
                assert not thread.is_alive()
    finally:
        end.set()


def test_a_server_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(download, "MOST_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "it takes more than" in failure(f"http://127.0.0.1:{silent.getsockname()[1]}/")
