"""The application over HTTP: nothing but the page is there, and it may fetch nothing from elsewhere."""

import json
import re
from dataclasses import asdict, fields
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the extra demo is not installed: see scripts/test_web.sh")

import gradio as gr
from fastapi.testclient import TestClient

from llava.pruning import MethodError, Settings
from llava.serve.page.comparison import first_settings
from llava.serve.page.controls import column_controls, fitting_controls, notice_of_error, setting_controls
from llava.serve.page.events import Uploads
from llava.serve.page.layout import _Page
from llava.serve.page.service import Service
from llava.serve.web import make_app
from tests.serve.conftest import GREEDY

HOW = (0, 7)  # temperature and length


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


def number_of(client, event: str) -> int:
    """How Gradio calls the first thing that happens at an event."""
    events = client.get("/config").json()["dependencies"]
    return next(one["id"] for one in events if any(name == event for _, name in one["targets"]))


def happens(client, event: str, *data, **more) -> dict:
    """What comes of an event that a visitor's browser reports with this data."""
    return happening(client, {"data": data, "fn_index": number_of(client, event), "session_hash": "me", **more})


def happening(client, sent: dict, query: str = "") -> dict:
    """What comes of what a browser sends from a page with this query."""
    assert client.post(f"/gradio_api/queue/join{query}", json=sent).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "me"}) as stream:
        messages = [json.loads(line.removeprefix("data:")) for line in stream.iter_lines() if line.startswith("data:")]
    return next(message for message in messages if message["msg"] == "process_completed")


def test_only_what_was_uploaded_is_read_and_deleted(client, picture_file, tmp_path):
    uploads = tmp_path / "uploads"
    thumbnail = next(uploads.rglob("v1_1.jpg"))
    outside = [str(picture_file), f"{uploads}/../picture.png", "http://127.0.0.1/a.png", str(thumbnail), "", None]
    for path in outside:
        refused = happens(client, "upload", {"path": path, "meta": {"_type": "gradio.FileData"}})
        assert not refused["success"] or "Nothing was uploaded" in refused["output"]["data"][4]
    sent = {"path": str(picture_file), "meta": {"_type": "gradio.FileData"}}
    asked = happens(client, "submit", sent, False, *HOW, *asdict(Settings(16)).values())
    assert not asked["success"]
    assert not list(uploads.rglob("picture.png"))
    assert picture_file.exists()
    assert thumbnail.exists()
    uploaded = client.post("/gradio_api/upload", files={"files": ("a.png", picture_file.read_bytes())}).json()[0]
    taken = happens(client, "upload", {"path": uploaded, "meta": {"_type": "gradio.FileData"}})
    assert "No question yet" in taken["output"]["data"][1]
    assert taken["output"]["data"][4] == ""


@pytest.mark.parametrize(
    "broken", ["raise ValueError('bad')", "def select(views, settings):\n    raise ValueError('bad')"]
)
def test_a_method_of_the_server_s_own_that_fails_is_a_sentence_and_in_the_log(
    service_of, picture_file, tmp_path, caplog, broken
):
    mine, service = tmp_path / "mine.py", service_of()
    mine.touch()
    pruning, service.methods = Settings(4, pruning_method=str(mine)), (*service.methods, str(mine))
    service.take_picture("me", picture_file, "picture.png")
    mine.write_text(broken)
    assert len(fitting_controls(service, *asdict(pruning).values())) == len(fields(Settings))
    with pytest.raises(MethodError) as failed:
        service.draw_kept("me", pruning)
    assert re.search(
        r"The pruning method .*mine\.py .*: ValueError: bad \(line \d of mine\.py\)", notice_of_error(failed.value)
    )
    assert "raise ValueError('bad')\n" in caplog.text
    assert service.draw_kept("me", Settings(4))


def test_a_new_picture_is_not_shown_under_the_patches_of_the_former_one(
    service_of, picture_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    page, visitor = _Page(service_of(), "a random model", Uploads()), SimpleNamespace(session_hash="me")
    page.service.take_picture("me", picture_file, "picture.png")
    for number, is_drawn in ((16, True), (0, False)):
        values = (asdict(Settings(16)) | {"visual_token_num": number}).values()
        _, picture, kept, heat, notice = page.conversation.draw_all(visitor, *values)
        assert ('class="kept' in kept, "at least 1" in notice) == (is_drawn, not is_drawn)
        assert "picture.png, 200 × 150" in picture
        assert "heat" in heat


def upload(client, file) -> dict:
    """A file's name for an event, as Gradio's own script writes it."""
    path = client.post("/gradio_api/upload", files={"files": ("a.png", file.read_bytes())}).json()[0]
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_an_upload_is_taken_once_by_the_browser_that_sent_it(client, picture_file):
    sent = upload(client, picture_file)
    cookies = dict(client.cookies)
    client.cookies.clear()
    assert "Nothing was uploaded" in happens(client, "upload", sent)["output"]["data"][4]
    upload(client, picture_file)  # another browser's, of the same name
    other = dict(client.cookies)
    client.cookies.clear()
    assert cookies and other != cookies
    for name, value in cookies.items():
        client.cookies.set(name, value)
    assert happens(client, "upload", sent)["output"]["data"][4] == ""
    assert "Nothing was uploaded" in happens(client, "upload", sent)["output"]["data"][4]
    client.cookies.clear()
    for name, value in other.items():
        client.cookies.set(name, value)
    assert happens(client, "upload", sent)["output"]["data"][4] == ""


def test_a_file_is_shown_to_the_browser_that_sent_it_alone(client, picture_file):
    path = f"/gradio_api/file={upload(client, picture_file)['path']}"
    assert client.get(path).content == picture_file.read_bytes()
    client.cookies.clear()
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "changed",
    [
        {"fn_index": 999},
        {"fn_index": -1},
        {"fn_index": "0"},
        {"fn_index": True},
        {"fn_index": None},
        {"data": [1]},
        {"data": {}},
        {"data": None},
        {"session_hash": None},
        {"session_hash": 5},
        {"session_hash": "x" * 1000},
    ],
)
def test_an_event_that_the_page_does_not_have_is_refused(client, capfd, changed):
    sent = {"data": [], "fn_index": number_of(client, "load"), "session_hash": "me"} | changed
    for path in ("queue/join", "run/predict"):
        assert client.post(f"/gradio_api/{path}", json=sent).status_code == 400
    assert "Traceback" not in capfd.readouterr().err


def test_values_that_no_browser_sends_leave_no_traceback(client, capfd):
    nested = [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]
    for value in (None, 5, True, 10**30, 1.5, "x", [], {}, nested, nested[0]):
        assert not happens(client, "submit", *[value] * (4 + len(fields(Settings))))["success"] or value == "x"
        happens(client, "upload", value)
        happens(client, "input", *[value] * len(fields(Settings)))
    for event_data in (None, {}, {"index": "0"}, 5):
        sent = {"data": [], "fn_index": number_of(client, "select"), "session_hash": "me", "event_data": event_data}
        assert client.post("/gradio_api/queue/join", json=sent).status_code == 400
    for index in (-1, 10**9):
        assert not happens(client, "select", event_data={"index": index, "value": None})["success"]
    assert "Traceback" not in capfd.readouterr().err


def test_only_what_the_page_uses_of_gradio_is_there(client):
    for body in (b"", b"[]", b"\xff", b"[" * 100_000):
        assert client.post("/gradio_api/queue/join", content=body).status_code == 400
    assert client.post("/gradio_api/queue/join", content=b" " * (2**20 + 1)).status_code == 413
    for path in ("run/ask", "api/predict", "call/ask", "component_server", "process_recording"):
        assert client.post(f"/gradio_api/{path}", json={"data": [], "fn_index": 0}).status_code == 404
    for path in ("proxy=http://127.0.0.1/", "file=%00", "deep_link"):
        assert client.get(f"/gradio_api/{path}").status_code == 404


def test_a_page_of_another_site_may_not_read_what_gradio_says(service_of, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    names, here = ("127.0.0.1", []), "http://localhost:7860"
    with TestClient(make_app(service_of(), "a random model", names=names), base_url=here) as client:
        for origin in ("http://localhost:3000", "https://evil.example", "null"):
            headers = {"origin": origin}
            answer = client.get("/config", headers=headers)
            assert answer.status_code == 200
            assert not [name for name in answer.headers if name.startswith("access-control-")]
            wanted = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
            for path in ("/gradio_api/queue/join", "/v1/chat/completions"):
                for answer in (client.options(path, headers=headers | wanted), client.post(path, headers=headers)):
                    assert answer.status_code == 403
                    assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert client.get("/", headers={"host": "evil.example"}).status_code == 403
        assert client.post("/gradio_api/reset", json={"event_id": "a"}, headers={"origin": here}).status_code == 200


def test_every_column_has_a_control_for_every_setting_and_unpruned_is_one_of_its_choices(service_of):
    service = service_of()
    beginnings = first_settings(service, service.settings)
    assert len(beginnings) == 4 and len({str(own) for own in beginnings}) == 4
    assert beginnings[0] == service.settings and "none" in [own.pruning_method for own in beginnings]
    for i, begin in enumerate(beginnings):
        with gr.Blocks():
            controls = column_controls(service, begin, i)
        assert {name: control.value for name, control in controls.items()} == asdict(begin)
        assert ("unpruned", "none") in controls["pruning_method"].choices
        assert len({control.elem_id for control in controls.values()}) == len(fields(Settings))


def event_of(client, elem_id: str) -> dict:
    """The event of a click on what has this id."""
    config = client.get("/config").json()
    number = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == elem_id)
    return next(one for one in config["dependencies"] if [number, "click"] in one["targets"])


def test_columns_are_added_up_to_four_and_removed_down_to_two(client):
    def click(elem_id: str) -> list[bool]:
        """Which columns are there after it."""
        event = event_of(client, elem_id)
        sent = {"data": [None], "fn_index": event["id"], "session_hash": "me"}
        shown = happening(client, sent)["output"]["data"][2:6]
        return [column["visible"] for column in shown]

    assert click("remove-0") == [True, True, False, False]
    assert click("compare-add") == [True, True, True, False]
    assert click("compare-add") == click("compare-add") == [True] * 4
    assert click("remove-1") == [True, False, True, True]
    assert click("remove-0") == click("remove-0") == [False, False, True, True]
    assert click("compare-add") == [True, False, True, True]


def test_the_page_begins_as_its_address_says(client):
    sent = {"data": [], "fn_index": number_of(client, "load"), "session_hash": "me"}
    begun = happening(client, sent, "?visual_token_num=40&pruning_method=random&scene=fire&colour=3")
    said = json.dumps(begun["output"]["data"])
    assert "colour=3: the page has no such setting" in said
    values = [update.get("value") for update in begun["output"]["data"][-len(fields(Settings)) :]]
    assert values == [40, 0.5, "random", 0, "crop", "renumbered"]


def test_every_setting_has_a_control(service_of):
    names = [field.name for field in fields(Settings)]
    controls = setting_controls(service_of())
    assert list(controls) == names
    assert {name: controls[name].value for name in names} == asdict(service_of().settings)
    # the others change nothing here
    assert [name for name in names if controls[name].visible] == [*names[:3], "positions"]
    assert setting_controls(service_of("v1.6"))["budget_per"].visible


@pytest.mark.parametrize("takes_settings", [True, False])
def test_what_a_server_does_not_take_has_no_control(takes_settings, model_server, tmp_path, monkeypatch):
    from llava.serve.page.vllm_server import VllmServer

    model_server.pruning |= {"patches": 144, "takes_settings": takes_settings}
    service = Service(None, VllmServer(model_server.url, GREEDY), Settings())
    controls = setting_controls(service)
    visible = [name for name in controls if controls[name].visible]
    assert visible == (["visual_token_num", "important_ratio"] if takes_settings else [])
    assert controls["visual_token_num"].maximum == 144
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with TestClient(make_app(service, "a server")) as client:
        parts = client.get("/config").json()["components"]
    for name in ("compare", "compare-tab"):
        (offered,) = (part["props"]["visible"] for part in parts if part["props"].get("elem_id") == name)
        assert offered is takes_settings


def test_controls_fit_the_method_and_the_budget(service_of):
    def fitting(*values) -> dict:
        return dict(zip((field.name for field in fields(Settings)), fitting_controls(service_of("v1.6"), *values)))

    for method, reads_ratio, reads_seed in [("vispruner_stable", True, False), ("random", False, True)]:
        updates = fitting(16, 0.5, method, 0, "crop", "renumbered")
        assert updates["positions"]["visible"] is (method != "fastv")
        assert updates["important_ratio"]["interactive"] is reads_ratio
        assert updates["pruning_seed"]["visible"] is reads_seed
        assert updates["visual_token_num"]["maximum"] == 144
    assert fitting(16, 0.5, "vispruner", 0, "image", "renumbered")["visual_token_num"]["maximum"] == 5 * 144


def test_a_method_that_a_visitor_names_is_never_run(service_of, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for method in (str(own), ["vispruner"], None):
        assert fitting_controls(service_of(), 16, 0.5, method, 0, "crop", "renumbered")
    assert not (tmp_path / "ran").exists()


def test_the_api_answers_beside_the_page(client):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]
    message = {"role": "user", "content": "What is it?"}
    answer = client.post("/v1/chat/completions", json={"model": "tiny", "messages": [message], "max_tokens": 3})
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 3


def test_a_column_is_drawn_anew_when_its_settings_change(client):
    events = client.get("/config").json()["dependencies"]
    number = number_of(client, "load")
    happening(client, {"data": [], "fn_index": number, "session_hash": "me"})
    changed = [one["id"] for one in events if any(name == "change" for _, name in one["targets"])]
    assert len(changed) == 5  # those of the conversation, and of each column
    for event, tokens in zip(changed[1:], (16, 20, 0, 30)):
        sent = {"data": [tokens, *list(asdict(Settings()).values())[1:]], "fn_index": event, "session_hash": "me"}
        drawn, notice = happening(client, sent)["output"]["data"]
        assert f"{tokens} of 144" in drawn if tokens else "must be at least 1" in notice
