"""Whom the server answers: requests to its own names, and of other sites' pages only what reads, without permission."""

import asyncio
import json
import socket

import pytest

from llava.serve.hosts import OwnNamesOnly

HERE = "127.0.0.1:7860"
MACHINE = socket.gethostname()


def ask(method="GET", listens="127.0.0.1", allowed=(), kind="http", **headers) -> tuple[int, list, bytes]:
    """Status, headers' names and body of the answer of an app that lets every page read what it says."""

    async def app(scope, receive, send) -> None:
        permission = [(b"Access-Control-Allow-Origin", b"*"), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": permission})
        await send({"type": "http.response.body", "body": b"secret"})

    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope, messages = {"type": kind, "method": method, "path": "/v1/models", "headers": sent}, []

    async def send(message) -> None:
        messages.append(message)

    asyncio.run(OwnNamesOnly(app, listens, list(allowed))(scope, None, send))
    if messages[0]["type"] == "websocket.close":
        return 403, [], b""
    return messages[0]["status"], [name.lower() for name, _ in messages[0]["headers"]], messages[1]["body"]


@pytest.mark.parametrize(
    "host", [HERE, "localhost", "LOCALHOST:1", "localhost.", "[::1]:7860", "127.0.0.2", MACHINE, f"{MACHINE}:80"]
)
def test_names_of_this_machine_are_served(host):
    assert ask(host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.5",
        "[::2]",
        "user@localhost",
        "localhost:80:80",
        "localhost/",
        "",
        "local host",
        "[::1",
        "http://localhost",
    ],
)
def test_other_names_are_not_served_on_the_loopback(host):
    for listens in ("127.0.0.1", "localhost", "::1"):
        status, _, body = ask(host=host, listens=listens)
        assert status == 403
        assert "--allow-host" in json.loads(body)["error"]["message"]
        assert ask(host=host, kind="websocket", method="GET")[0] == 403


def test_a_server_for_other_machines_has_its_addresses_and_the_names_that_are_given():
    for host in ("10.0.0.5:7860", "[2001:db8::1]", "localhost", MACHINE, "0.0.0.0:7860"):
        assert ask(host=host, listens="0.0.0.0")[0] == 200
    assert ask(host="llava.example", listens="0.0.0.0")[0] == 403
    for listens in ("127.0.0.1", "0.0.0.0"):
        assert ask(host="Llava.example:443", listens=listens, allowed=["llava.example"])[0] == 200


FOREIGN = [
    {"origin": origin} for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://localhost:7860")
]
FOREIGN += [{"origin": "http://127.0.0.1:7860.evil.example"}, {"origin": "file://"}, {"sec_fetch_site": "cross-site"}]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_gets_no_permission_and_changes_nothing(headers):
    status, names, _ = ask(host=HERE, **headers)
    assert (status, names) == (200, [b"x-own"])
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, names, body = ask(method, host=HERE, **headers)
        assert (status, b"secret" in body) == (403, False)
        assert not [name for name in names if name.startswith(b"access-control-")]
    assert ask(None, host=HERE, kind="websocket", **headers)[0] == 403


def test_the_page_s_own_requests_are_served():
    assert ask("POST", host=HERE, origin=f"http://{HERE}", sec_fetch_site="same-origin")[0] == 200
    assert ask("POST", host=HERE)[0] == 200  # a program sends no origin
    proxied = {"origin": "https://llava.example", "sec_fetch_site": "same-origin"}
    assert ask("POST", host="llava.example", allowed=["llava.example"], **proxied)[0] == 200
    assert ask("POST", host=HERE, allowed=["llava.example"], **proxied)[0] == 200  # a proxy that asks by another name
