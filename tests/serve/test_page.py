"""The application over HTTP: nothing but the page is there, and it may fetch nothing from elsewhere."""

import re

import pytest

pytest.importorskip("gradio", reason="the extra demo is not installed: see scripts/test_web.sh")

from fastapi.testclient import TestClient

from llava.pruning import PruningSettings
from llava.serve.web import make_app


@pytest.fixture
def client(service_of, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    service = service_of()
    with TestClient(make_app(service, PruningSettings(16), "a random model", service.model.loaded)) as client:
        yield client


def test_the_page_may_fetch_nothing_from_another_host(client):
    response = client.get("/")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    sources = {word for rule in policy.split(";") for word in rule.split()[1:]}
    assert sources <= {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
    assert policy.startswith("default-src 'self'")
    loaded = re.findall(r'<(?:script|link)[^>]+(?:src|href)="([^"]+)"', response.text)
    assert loaded
    assert not [address for address in loaded if "//" in address]
    for style in ("theme.css", *(address for address in loaded if address.endswith(".css"))):
        assert not re.findall(r"url\(['\"]?https?:|@import", client.get(style).text)


def test_neither_telemetry_nor_its_programming_interface_is_offered(client):
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert client.get("/gradio_api/info").json()["named_endpoints"] == {}
    assert [client.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")].count(200) == 0


def test_an_upload_that_is_too_large_is_refused(client, tmp_path):
    small, large = b"0" * 1000, b"0" * (20 * 1024 * 1024 + 1)
    answers = [client.post("/gradio_api/upload", files={"files": ("a.png", data)}) for data in (small, large)]
    assert [answer.status_code for answer in answers] == [200, 413]
    left = [file for file in (tmp_path / "uploads").rglob("*") if file.is_file() and file.stat().st_size > 10**6]
    assert not left
