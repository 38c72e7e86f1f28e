"""Answers from a server over vLLM's protocol, against one that speaks it."""

import base64
import contextlib
import socket
import threading
from io import BytesIO

import pytest
from PIL import Image

from llava.errors import InputError
from llava.pruning import Settings
from llava.serve.page.vllm_server import ServerPruning, VllmServer
from tests.conftest import picture

pytest.importorskip("openai", reason="the extra demo is not installed: see scripts/test_web.sh")
GREEDY = {"do_sample": False, "max_new_tokens": 9}


def collect(pieces) -> tuple[list[str], object]:
    """The pieces of an answer, and what it took."""
    said = []
    while True:
        try:
            said.append(next(pieces))
        except StopIteration as end:
            return said, end.value


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_its_model_is_asked_for(model_server, end):
    assert VllmServer(model_server.url + end, GREEDY).model == "llava-served"


def test_what_it_keeps_is_asked_for(model_server):
    model_server.pruning = {
        "patches": 144,
        "takes_settings": False,
        "settings": {
            "visual_token_num": 16,
            "important_ratio": 0.25,
            "pruning_method": "divprune",
            "later": 1,
        },
    }
    server = VllmServer(model_server.url, GREEDY)
    assert server.pruning == ServerPruning(144, False, Settings(16, 0.25, "divprune"), "divprune")
    assert server.about == f"llava-served on {model_server.url}, 144 patches of a crop, divprune"


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {"patches": 0},
        {"patches": True},
        {"patches": "144"},
        {"settings": None},
        {"settings": {"pruning_method": "vispruner", "visual_token_num": 0}},
        {"settings": {"pruning_method": 5}},
    ],
)
def test_a_server_that_does_not_say_what_it_keeps_is_asked_with_its_own_settings(wrong, model_server):
    model_server.pruning = None if wrong is None else model_server.pruning | wrong
    server = VllmServer(model_server.url, GREEDY)
    assert server.pruning == ServerPruning()
    said, _ = collect(server.chat(picture(200, 150), 576).stream("What is it?", Settings(64)))
    assert "".join(said) == "1 texts, (200, 150), its own tokens"


def test_a_file_that_a_server_names_as_its_method_is_never_run(model_server, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    model_server.pruning["settings"]["pruning_method"] = str(own)
    pruning = VllmServer(model_server.url, GREEDY).pruning
    assert (pruning.method, pruning.settings.pruning_method) == (str(own), "vispruner")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("given", [{"visual_token_num": 32}, {"important_ratio": 0.25}])
def test_a_setting_that_the_server_does_not_take_is_refused_by_name(given):
    asked = Settings(**given)
    for pruning in (ServerPruning(), ServerPruning(144, False, Settings(16), "vispruner")):
        with pytest.raises(InputError, match=f"{min(given)}.*--trust-request-mm-kwargs"):
            pruning.begin_with(asked)
    begun = ServerPruning(144, True, Settings(16, 0.75, "divprune"), "divprune").begin_with(asked)
    assert begun == Settings(**{"visual_token_num": 16, "important_ratio": 0.75, "pruning_method": "divprune"} | given)


def test_each_question_has_a_connection_of_its_own(model_server):
    """Over one that the server closes after its last answer, the next question would be lost."""
    chat = VllmServer(model_server.url, GREEDY).chat(picture(), 576)
    for question in ("refuse this", "refuse that", "What is it?", "Why?"):
        with contextlib.suppress(InputError):
            collect(chat.stream(question, Settings(64)))
    assert len(set(model_server.addresses)) == len(model_server.addresses) == 4


def test_an_answer_streams_with_the_budget_of_the_request(model_server):
    chat = VllmServer(model_server.url, GREEDY).chat(picture(200, 150), 576)
    said, (text, figures) = collect(chat.stream("What is it?", Settings(64, 0.25)))
    assert "".join(said) == text == "1 texts, (200, 150), 64 tokens"
    assert len(said) == 6
    assert (figures.prompt_tokens, figures.answer_tokens) == (70, 6)
    assert figures.first_token > 0
    body = model_server.bodies[0]
    assert body["mm_processor_kwargs"] == {"visual_token_num": 64, "important_ratio": 0.25}
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("llava-served", 9, 0.0)


def test_a_conversation_is_sent_whole_and_the_picture_with_its_first_question(model_server):
    chat = VllmServer(model_server.url, GREEDY).chat(picture(200, 150), 576)
    for question in ("What is it?", "Why?"):
        first, _ = collect(chat.stream(question, Settings(64)))
    assert "".join(first).startswith("3 texts, (200, 150)")  # two questions and an answer
    messages = model_server.bodies[1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "1 texts, (200, 150), 64 tokens"
    collect(chat.stream_unpruned("Why?"))
    assert model_server.bodies[2]["messages"] == messages  # the same history, without the pruned answer
    assert model_server.bodies[2]["mm_processor_kwargs"] == {"visual_token_num": 576}


def test_the_picture_arrives_as_it_is(model_server):
    image = picture(200, 150)
    collect(VllmServer(model_server.url, GREEDY).chat(image, 576).stream("What?", Settings(8)))
    url = model_server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    arrived = Image.open(BytesIO(base64.b64decode(url.partition(",")[2])))
    assert arrived.convert("RGB").tobytes() == image.tobytes()


def test_sampling_is_passed_on(model_server):
    options = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 5}
    collect(VllmServer(model_server.url, options).chat(picture(), 576).stream("What?", Settings(8)))
    body = model_server.bodies[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 5)


@pytest.mark.parametrize(
    ("question", "named"),
    [("refuse this", "the server says: visual_token_num must be at least 1"), ("break off here", "broke off")],
)
def test_what_the_server_cannot_answer_is_told_and_the_conversation_goes_on(model_server, question, named):
    chat = VllmServer(model_server.url, GREEDY).chat(picture(200, 150), 576)
    collect(chat.stream("What is it?", Settings(64)))
    with pytest.raises(InputError, match=named):
        collect(chat.stream(question, Settings(64)))
    said, _ = collect(chat.stream("Why?", Settings(64)))
    assert "".join(said).startswith("3 texts")


def test_an_answer_that_is_left_early_closes_the_connection(model_server):
    chat = VllmServer(model_server.url, GREEDY).chat(picture(), 576)
    pieces = chat.stream("What is it?", Settings(64))
    next(pieces)
    pieces.close()
    assert "".join(collect(chat.stream("And?", Settings(64)))[0]).startswith("1 texts")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port", "http://127.0.0.1:99999"]
)
def test_an_address_that_is_none_is_an_error(url):
    with pytest.raises(InputError, match="--server"):
        VllmServer(url, GREEDY)


def test_a_server_that_is_not_there_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(InputError, match=r"cannot be reached: .*Connection refused"):
        VllmServer(f"http://127.0.0.1:{port}", GREEDY)


@pytest.mark.parametrize(
    ("response", "named"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "cannot be reached"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "the server says: Not Found"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "names no model"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"data": [1]}', "names no model"),
    ],
)
def test_a_server_of_another_kind_is_an_error(response, named):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(response)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(InputError, match=named):
            VllmServer(f"http://127.0.0.1:{listener.getsockname()[1]}", GREEDY)
        thread.join(10)
