"""The application over HTTP: nothing but the page is there, and it may fetch nothing from elsewhere."""

import json
import re
from dataclasses import asdict, fields

import pytest

pytest.importorskip("gradio", reason="the extra demo is not installed: see scripts/test_web.sh")

from fastapi.testclient import TestClient

from llava.pruning import Settings
from llava.serve.page.controls import fitting_controls, setting_controls
from llava.serve.page.service import Service
from llava.serve.web import make_app


@pytest.fixture
def client(service_of, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    service = service_of()
    with TestClient(make_app(service, "a random model")) as client:
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


def happens(client, event: str, *data) -> dict:
    """What comes of an event that a visitor's browser reports with this data."""
    events = client.get("/config").json()["dependencies"]
    number = next(one["id"] for one in events if any(name == event for _, name in one["targets"]))
    sent = {"data": data, "fn_index": number, "session_hash": "me"}
    assert client.post("/gradio_api/queue/join", json=sent).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "me"}) as stream:
        messages = [json.loads(line.removeprefix("data:")) for line in stream.iter_lines() if line.startswith("data:")]
    return next(message for message in messages if message["msg"] == "process_completed")


def test_only_what_was_uploaded_is_read_and_deleted(client, picture_file, tmp_path):
    uploads = tmp_path / "uploads"
    thumbnail = next(uploads.rglob("v1_1.jpg"))
    outside = [str(picture_file), f"{uploads}/../picture.png", "http://127.0.0.1/a.png", str(thumbnail), "", None]
    for path in outside:
        refused = happens(client, "upload", {"path": path, "meta": {"_type": "gradio.FileData"}})
        assert not refused["success"] or "Nothing was uploaded" in refused["output"]["data"][3]
    sent = {"path": str(picture_file), "meta": {"_type": "gradio.FileData"}}
    asked = happens(client, "submit", sent, False, 16, 0.5, "vispruner", 0, "crop")
    assert not asked["success"]
    assert not list(uploads.rglob("picture.png"))
    assert picture_file.exists()
    assert thumbnail.exists()
    uploaded = client.post("/gradio_api/upload", files={"files": ("a.png", picture_file.read_bytes())}).json()[0]
    taken = happens(client, "upload", {"path": uploaded, "meta": {"_type": "gradio.FileData"}})
    assert "No question yet" in taken["output"]["data"][1]
    assert taken["output"]["data"][3] == ""


def test_every_setting_has_a_control(service_of):
    names = [field.name for field in fields(Settings)]
    controls = setting_controls(service_of())
    assert list(controls) == names
    assert {name: controls[name].value for name in names} == asdict(service_of().settings)
    assert [name for name in names if controls[name].visible] == names[:3]  # the others change nothing here
    assert setting_controls(service_of("v1.6"))["budget_per"].visible


@pytest.mark.parametrize("takes_settings", [True, False])
def test_what_a_server_does_not_take_has_no_control(takes_settings, model_server, tmp_path, monkeypatch):
    from llava.serve.page.vllm_server import VllmServer

    model_server.pruning |= {"patches": 144, "takes_settings": takes_settings}
    service = Service(None, VllmServer(model_server.url, {}), Settings())
    controls = setting_controls(service)
    visible = [name for name in controls if controls[name].visible]
    assert visible == (["visual_token_num", "important_ratio"] if takes_settings else [])
    assert controls["visual_token_num"].maximum == 144
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with TestClient(make_app(service, "a server")) as client:
        parts = client.get("/config").json()["components"]
    (compare,) = (part["props"]["visible"] for part in parts if part["props"].get("elem_id") == "compare")
    assert compare is takes_settings


def test_controls_fit_the_method_and_the_budget(service_of):
    def fitting(*values) -> dict:
        return dict(zip((field.name for field in fields(Settings)), fitting_controls(service_of("v1.6"), *values)))

    for method, reads_ratio, reads_seed in [("vispruner_stable", True, False), ("random", False, True)]:
        updates = fitting(16, 0.5, method, 0, "crop")
        assert updates["important_ratio"]["interactive"] is reads_ratio
        assert updates["pruning_seed"]["visible"] is reads_seed
        assert updates["visual_token_num"]["maximum"] == 144
    assert fitting(16, 0.5, "vispruner", 0, "image")["visual_token_num"]["maximum"] == 5 * 144


def test_a_method_that_a_visitor_names_is_never_run(service_of, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for method in (str(own), ["vispruner"], None):
        assert fitting_controls(service_of(), 16, 0.5, method, 0, "crop")
    assert not (tmp_path / "ran").exists()


def test_the_api_answers_beside_the_page(client):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]
    message = {"role": "user", "content": "What is it?"}
    answer = client.post("/v1/chat/completions", json={"model": "tiny", "messages": [message], "max_tokens": 3})
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 3
