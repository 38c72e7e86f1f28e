"""The chat API over HTTP, through the `openai` package and by hand: answers are the engine's, and nothing is lost."""

import base64
import contextlib
import http.client
import http.server
import importlib.util
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.errors import InputError
from llava.inference import Engine, Session, make_request
from llava.inference.images import decode_image
from llava.pruning import METHOD_NAMES, Settings
from llava.serve.queue import Queue
from llava.vision.pictures import load_image
from llava.vision.pixels import process_images
from tests.conftest import ROOT, encode, load, picture

_WHY = "the HTTP API is not installed: pip install -e '.[demo]' openai"
fastapi = pytest.importorskip("fastapi", reason=_WHY)
uvicorn = pytest.importorskip("uvicorn", reason=_WHY)
openai = pytest.importorskip("openai", reason=_WHY)
routes = importlib.import_module("llava.serve.api.routes")  # which needs fastapi

SCENES = ROOT / "playground" / "data" / "scenes"
POPE = (SCENES / "pope" / "llava_pope_test.jsonl", SCENES / "pope" / "val2014")
TEXTVQA = (SCENES / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl", SCENES / "textvqa" / "train_images")
DESCRIBE = "Describe the image."  # the bundled model's answer has some forty tokens
PNG = encode(picture())


class Turn:
    """A semaphore that knows how many have been inside at once."""

    def __init__(self, places: int) -> None:
        self.semaphore, self.inside, self.most = threading.Semaphore(places), 0, 0

    def __enter__(self) -> None:
        self.semaphore.acquire()
        self.inside += 1
        self.most = max(self.most, self.inside)

    def __exit__(self, *_) -> None:
        self.inside -= 1
        self.semaphore.release()


@contextlib.contextmanager
def serving(loaded: tuple, name: str, allow_urls: bool = False, places: int = 2, turn=None):
    """A server of this model, in a thread: its port, its turn, a client of it, and the passes of its decoder."""
    app, turn, passes = fastapi.FastAPI(), Turn(places) if turn is None else turn, []
    app.include_router(
        routes.make_router(Engine(loaded), name, template=loaded.template, allow_urls=allow_urls, turn=turn)
    )
    hook = loaded[1].model.layers[0].register_forward_hook(lambda _, inputs, out: passes.append(inputs[0].shape[1]))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_keep_alive=600))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
    try:
        yield SimpleNamespace(port=port, turn=turn, client=client, passes=passes, name=name, model=loaded[1])
    finally:
        client.close()
        server.should_exit = True
        thread.join()
        hook.remove()


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def tiny() -> tuple:
    """The bundled model."""
    return load(ROOT / "playground" / "checkpoints" / "llava-tiny")


@pytest.fixture(scope="module")
def server(tiny):
    """The bundled model behind the API."""
    with serving(tiny, "llava-tiny") as served:
        yield served


@pytest.fixture
def endless(loaded):
    """A random model behind the API: its answers go on to the end of the context, one at a time."""
    llava = loaded()
    before, llava[1].generation_config.eos_token_id = llava[1].generation_config.eos_token_id, [2_000_000]
    with serving(llava, "endless", places=1) as served:
        yield served
    llava[1].generation_config.eos_token_id = before


def image(data: bytes) -> dict:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}


def user(text: str, *pictures: bytes) -> dict:
    return {"role": "user", "content": [*map(image, pictures), {"type": "text", "text": text}]}


def ask(server, *messages: dict, **options):
    """The reply to messages, greedy unless told otherwise."""
    return server.client.chat.completions.create(
        **{"model": server.name, "messages": messages, "temperature": 0} | options
    )


def text_of(reply) -> str:
    return reply.choices[0].message.content


def streamed(server, *messages: dict, **options) -> list:
    return list(ask(server, *messages, stream=True, **options))


def joined(chunks: list) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def counts(usage) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def some_questions() -> list[tuple[str, bytes]]:
    """Text and picture of three questions each of the bundled POPE and TextVQA, and one with a long answer."""
    asked = []
    for file, images in (POPE, TEXTVQA):
        for line in file.read_text().splitlines()[:21:10]:
            row = json.loads(line)
            asked.append((row["text"], (images / row["image"]).read_bytes()))
    return [*asked, (DESCRIBE, asked[0][1])]


def number_generated(tiny: tuple, request, budget: int) -> int:
    """The tokens that the model's own `generate` answers a request with, the end included."""
    tokenizer, model, image_processor, _ = tiny
    images = [load_image(data) for data in request.images]
    ids = tokenizer_image_token(request.prompt, tokenizer, return_tensors="pt").unsqueeze(0)
    pixels = process_images(images, image_processor, model.config)
    sizes = [image.size for image in images]
    return model.generate(ids, images=pixels, image_sizes=sizes, visual_token_num=budget, do_sample=False).shape[1]


@pytest.mark.parametrize("budget", [16, 48])
def test_greedy_answers_are_the_engine_s(server, tiny, budget):
    model, questions = tiny[1], some_questions()
    requests = [make_request(text, [data], tiny.template, model.config, Settings(budget)) for text, data in questions]
    for request, (text, data), completion in zip(requests, questions, Engine(tiny).answer(requests, do_sample=False)):
        reply = ask(server, user(text, data), extra_body={"visual_token_num": budget})
        new = number_generated(tiny, request, budget)
        assert completion.num_visual_tokens == (budget,)
        assert text_of(reply) == completion.text
        assert counts(reply.usage) == (completion.prompt_tokens, new, completion.prompt_tokens + new)
        assert reply.choices[0].finish_reason == "stop"
        *chunks, last = streamed(
            server,
            user(text, data),
            stream_options={"include_usage": True},
            extra_body={"mm_processor_kwargs": {"visual_token_num": budget}},
        )
        assert joined(chunks) == completion.text
        assert (last.choices, last.usage) == ([], reply.usage)
        assert all(chunk.usage is None for chunk in chunks)
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert len({chunk.id for chunk in [*chunks, last]}) == 1
    assert len(chunks) > 20  # word by word


def test_what_a_session_says_over_several_turns_and_pictures(server, tiny):
    first, second, third = (data for _, data in some_questions()[1:4])
    turns = [("What is it?", (first,)), ("Is it red?", ()), (DESCRIBE, (second, third)), ("Are you sure?", ())]
    session, messages = Session(tiny, pruning=Settings(16)), []
    for text, pictures in turns:
        marked = "<image>\n" * len(pictures) + text
        said = session.ask(marked, pictures, do_sample=False, max_new_tokens=20)
        messages.append(user(text, *pictures))
        reply = ask(server, *messages, max_tokens=20, extra_body={"visual_token_num": 16})
        assert text_of(reply) == said
        assert reply.usage.prompt_tokens == session.last.prompt_tokens
        messages.append(reply.choices[0].message.model_dump())
    assert session.last.num_visual_tokens == (16, 16, 16)


def test_a_conversation_goes_on_after_an_empty_answer(server, tiny):
    first, again = user(DESCRIBE, some_questions()[3][1]), user("Are you sure?")
    fields = {"extra_body": {"visual_token_num": 16}, "max_tokens": 20}
    said = text_of(ask(server, first, **fields))
    empty = ask(server, first, stop=said[:3], **fields).choices[0].message
    assert empty.content == ""
    assert joined(streamed(server, first, stop=said[:3], **fields)) == ""
    session = Session(tiny, pruning=Settings(16))
    end = {"prefix_allowed_tokens_fn": lambda *_: [tiny[0].eos_token_id]}
    assert session.ask(f"<image>\n{DESCRIBE}", [some_questions()[3][1]], do_sample=False, **end) == ""
    expected = session.ask("Are you sure?", do_sample=False, max_new_tokens=20)
    for answer in (empty.model_dump(), {"role": "assistant", "content": None}):
        reply = ask(server, first, answer, again, **fields)
        assert (text_of(reply), reply.usage.prompt_tokens) == (expected, session.last.prompt_tokens)


def test_the_template_is_that_of_the_published_figures(server, tiny):
    text, data = some_questions()[0]
    prompt = tiny.template.prompt(f"<image>\n{text}")
    assert "between a curious user" in prompt
    ids = tokenizer_image_token(prompt, tiny[0])
    reply = ask(server, user(text, data), extra_body={"visual_token_num": 16})
    assert reply.usage.prompt_tokens == len(ids) - 1 + 16


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_gives_the_engine_s_answers_or_is_refused_by_name(server, tiny, method):
    pruning = Settings(8, pruning_method=method)
    fields = {"visual_token_num": 8, "pruning_method": method}
    asked = some_questions()[3:]
    requests = [make_request(text, [data], tiny.template, tiny[1].config, pruning) for text, data in asked]
    try:
        said = list(Engine(tiny).answer(requests, do_sample=False))
    except InputError:
        with pytest.raises(openai.BadRequestError) as refused:
            ask(server, user(*asked[0]), extra_body=fields)
        assert refused.value.param == "pruning_method"
        assert method in refused.value.message
        return
    for (text, data), completion in zip(asked, said):
        reply = ask(server, user(text, data), extra_body=fields)
        assert (text_of(reply), reply.usage.prompt_tokens) == (completion.text, completion.prompt_tokens)


def test_a_method_that_the_model_cannot_serve_is_refused_by_name(make_checkpoint):
    folder = make_checkpoint()
    (config,) = folder.parent.glob("clip-*/config.json")
    values = json.loads(config.read_text())
    del values["text_config"]  # a tower without its text side
    config.write_text(json.dumps(values))
    with serving(load(folder), "vision") as vision:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as refused:
                fields = {"visual_token_num": 8, "pruning_method": "cdpruner"}
                ask(vision, user("What?", PNG), stream=stream, extra_body=fields)
            assert refused.value.param == "pruning_method"
            assert "cdpruner" in refused.value.message


def test_a_method_of_the_server_s_own_that_fails_is_the_server_s_fault(tiny, tmp_path, caplog):
    """One line with its name for the client, and the traceback in the log; the next request is answered."""
    mine, (text, data) = tmp_path / "mine.py", some_questions()[0]
    mine.touch()
    before, tiny[1].pruning = tiny[1].pruning, Settings(8, pruning_method=str(mine))
    try:
        with serving(tiny, "llava-tiny") as served:
            for code in ("raise ValueError('bad')", "raise SystemExit(0)", "return views.keep([[0, 1]])"):
                mine.write_text(f"def select(views, settings):\n    {code}\n")
                for stream in (False, True):
                    with pytest.raises(openai.InternalServerError) as failed:
                        ask(served, user(text, data), stream=stream)
                    assert failed.value.param == "pruning_method"
                    assert "mine.py" in failed.value.message
                    assert "(line 2 of mine.py)" in failed.value.message
                    assert "\n" not in failed.value.message
                assert f"    {code}\n" in caplog.text
            assert text_of(ask(served, user(text, data), extra_body={"pruning_method": "none"}))
    finally:
        tiny[1].pruning = before


def test_a_method_that_chooses_by_the_question_sees_the_question(server, tiny):
    (text, data), pruning = some_questions()[0], Settings(4, pruning_method="mmtok")
    request = make_request(text, [data], tiny.template, tiny[1].config, pruning)
    requests = [request, replace(request, question="")]
    seen, blind = (said.text for said in Engine(tiny).answer(requests, do_sample=False))
    assert seen != blind
    reply = ask(server, user(text, data), extra_body={"visual_token_num": 4, "pruning_method": "mmtok"})
    assert text_of(reply) == seen


def test_a_picture_lies_as_it_is_displayed(server):
    turned = picture(40, 20)
    exif = turned.getexif()
    exif[0x0112] = 6
    stored, upright = encode(turned, exif=exif), encode(turned.transpose(4))
    assert text_of(ask(server, user(DESCRIBE, stored))) == text_of(ask(server, user(DESCRIBE, upright)))


def test_settings_reach_the_model_at_both_places(server):
    data = some_questions()[0][1]

    def said(**fields) -> tuple:
        reply = ask(server, user(DESCRIBE, data), extra_body=fields)
        return text_of(reply), reply.usage.prompt_tokens

    full = said()
    settings = {"visual_token_num": 16, "important_ratio": 0.1, "pruning_method": "random"}
    top, nested = said(**settings), said(mm_processor_kwargs=settings)
    assert top == nested
    assert full[1] - top[1] == 144 - 16
    assert said(visual_token_num=16)[0] != top[0]
    assert said(visual_token_num=16, pruning_method="none") == full
    fastv = said(pruning_method="fastv", visual_token_num=1)
    assert fastv[1] == full[1]  # all enter the decoder
    assert fastv[0] != full[0]


def test_an_answer_ends_where_it_is_told_to(server):
    data = some_questions()[0][1]
    whole = text_of(ask(server, user(DESCRIBE, data)))
    cut = ask(server, user(DESCRIBE, data), max_tokens=7)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 7)
    assert text_of(ask(server, user(DESCRIBE, data), max_completion_tokens=7)) == text_of(cut)
    assert whole.startswith(text_of(cut))
    assert joined(streamed(server, user(DESCRIBE, data), max_tokens=7)) == text_of(cut)

    stop = whole[20:31]  # begins and ends within words
    for stops in (stop, ["no such words", stop]):
        reply = ask(server, user(DESCRIBE, data), stop=stops)
        assert text_of(reply) == whole[: whole.index(stop)].rstrip()
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.completion_tokens < len(whole.split())
        chunks = streamed(server, user(DESCRIBE, data), stop=stops)
        assert joined(chunks) == text_of(reply)
        assert chunks[-1].choices[0].finish_reason == "stop"
    assert joined(streamed(server, user(DESCRIBE, data), stop="no such words")) == whole


def test_drawn_answers(server):
    data = some_questions()[0][1]

    def said(**options) -> str:
        return text_of(ask(server, user(DESCRIBE, data), max_tokens=20, **options))

    greedy = said()
    assert said(temperature=5, top_p=1e-6) == said(temperature=1e-4) == greedy
    drawn = [said(temperature=3, seed=seed) for seed in (1, 2)]
    assert drawn[0] != drawn[1]
    # Torch's own generator, which all threads share, would give other answers beside each other.
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda seed: said(temperature=3, seed=seed), [1, 2, 1, 2]))
    assert again == drawn * 2
    assert len({said(temperature=3) for _ in range(3)}) > 1


def test_sampling_is_the_request_s_the_checkpoint_s_or_openai_s(server, tiny, monkeypatch):
    data = some_questions()[0][1]

    def said(defaults: dict, temperature: float | None = None, **options) -> str:
        monkeypatch.setattr(tiny[1], "sampling_defaults", defaults)
        options |= {"temperature": temperature, "max_tokens": 20}
        return text_of(ask(server, user(DESCRIBE, data), seed=1, **options))

    greedy, drawn = said({}, 0), said({}, 3, top_p=1)
    assert greedy != drawn
    for defaults in ({"temperature": 1e-4}, {"temperature": 3, "top_p": 1e-6}, {"temperature": 3, "top_k": 1}):
        assert said(defaults) == greedy
    assert said({"temperature": 3}) == said({"temperature": 3, "top_p": 1e-6}, top_p=1) == drawn
    assert said({"temperature": 3}, 0) == said({"temperature": 1e-4, "top_p": 0.5}, 0) == greedy
    assert said({}) == said({}, 1, top_p=1)


def test_requests_beside_each_other_do_not_disturb_each_other(server):
    asked = [(question, budget) for question in some_questions()[2:] for budget in (1, 16, 100)]

    def said(one) -> tuple:
        (text, data), budget = one
        reply = ask(server, user(text, data), extra_body={"visual_token_num": budget})
        return text_of(reply), counts(reply.usage)

    alone = list(map(said, asked))
    server.turn.most = 0
    with ThreadPoolExecutor(len(asked)) as pool:
        assert list(pool.map(said, asked)) == alone
    assert server.turn.most == 2
    assert server.turn.inside == 0


def test_the_model_s_name(server):
    (listed,) = server.client.models.list()
    assert listed.id == "llava-tiny" == server.client.models.retrieve("llava-tiny").id
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("gpt/4o")
    with pytest.raises(openai.NotFoundError) as refused:
        ask(server, user("Hi"), model="gpt-4o")
    assert refused.value.body == {
        "message": "the model 'gpt-4o' does not exist: this server has 'llava-tiny'",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


@pytest.mark.parametrize("stream", [False, True])
def test_bad_input_is_refused_by_name_and_the_server_goes_on(server, stream):
    full = "context_length_exceeded"
    bad = [
        ((user("What?", b"no picture"),), {}, None, None),
        ((user("What?", PNG[:-100]),), {}, None, None),
        ((user(""),), {}, "messages[0].content", None),
        ((user("word " * 3000, PNG),), {}, "messages", full),
        ((user("word " * 1000 + "a" * 950, PNG),), {}, "messages", full),  # with its picture alone
        ((user("What?", PNG),), {"max_tokens": 2000}, "max_tokens", full),
        ((user("What?", PNG),), {"extra_body": {"visual_token_num": 0}}, "visual_token_num", None),
        ((user("What?", PNG),), {"extra_body": {"positions": "before"}}, "positions", None),
        ((user("What?", PNG),), {"extra_body": {"pruning_method": "best"}}, "pruning_method", None),
        ((user("What?", PNG),), {"n": 2}, "n", None),
    ]
    for messages, options, param, code in bad:
        with pytest.raises(openai.BadRequestError) as refused:
            ask(server, *messages, stream=stream, **options)
        assert refused.value.body.keys() == {"message", "type", "param", "code"}
        assert refused.value.body["type"] == "invalid_request_error"
        assert (refused.value.param, refused.value.code) == (param, code)
        assert (param or "the image of the conversation") in refused.value.message or code == full
    assert text_of(ask(server, user("Is there a dog?", PNG)))


def test_a_text_that_is_too_long_is_refused_before_its_turn(server):
    with server.turn, server.turn, pytest.raises(openai.BadRequestError, match="the context is full"):
        ask(server, user("word " * 3000), timeout=10)


def one_bit(width: int, height: int) -> bytes:
    return encode(Image.new("1", (width, height)))


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (lambda: user("word " * 800_000), "longer than the context"),
        (lambda: user("=" * 4_000_000), "longer than the context"),
        (lambda: user("What?", one_bit(5000, 5000), one_bit(5000, 5001)), "at most 50,000,000 in all"),
        (lambda: user("What?", PNG, PNG[:-100]), "the image of the conversation"),
        (lambda: user("What?", *[PNG] * 65), "65 pictures, at most 64"),
    ],
)
def test_what_costs_too_much_or_cannot_be_read_is_refused_before_its_turn(server, message, named):
    with server.turn, server.turn, pytest.raises(openai.BadRequestError, match=named):
        ask(server, message(), timeout=30)


def test_a_client_that_goes_away_ends_the_decoding_of_its_pictures(tiny, monkeypatch):
    decoded = []

    def decode(*arguments):
        decoded.append(arguments)
        time.sleep(0.1)
        return decode_image(*arguments)

    monkeypatch.setattr(routes, "decode_image", decode)
    body = json.dumps({"messages": [user("What?", *[PNG] * 64)]}).encode()
    with serving(tiny, "llava-tiny") as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port)
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        wait_for(lambda: decoded)
        connection.close()
        wait_for(lambda: all(thread.name != "answering" for thread in threading.enumerate()))
        assert len(decoded) < 64
        assert not served.passes


def test_a_client_that_goes_away_leaves_its_place_in_the_queue(tiny):
    queue = Queue()
    body = json.dumps({"messages": [user("Hi")]}).encode()
    with serving(tiny, "llava-tiny", turn=queue) as served, queue:
        connection = http.client.HTTPConnection("127.0.0.1", served.port)
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        wait_for(lambda: len(queue) == 2)
        connection.close()
        wait_for(lambda: len(queue) == 1)


@pytest.mark.slow
def test_no_request_of_32_clients_is_lost(tiny):
    with serving(tiny, "llava-tiny", turn=Queue()) as served:

        def ask_often(_) -> list[str]:
            with openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="none") as client:
                served_to = SimpleNamespace(client=client, name="llava-tiny")
                message = user("Is there a dog?", PNG)
                return [text_of(ask(served_to, message, max_tokens=2)) for _ in range(3)]

        with ThreadPoolExecutor(32) as pool:
            assert len({said for answers in pool.map(ask_often, range(32)) for said in answers}) == 1


def test_the_last_token_that_the_context_has_room_for(server):
    whole = ask(server, user("What?", PNG), max_tokens=1).usage.prompt_tokens
    for positions in ("renumbered", "original", "after"):
        given = {"extra_body": {"visual_token_num": 8, "positions": positions}}
        tokens = ask(server, user("What?", PNG), max_tokens=1, **given).usage.prompt_tokens
        assert tokens == whole - 144 + 8
        left = 2048 - (tokens if positions == "renumbered" else whole)
        assert ask(server, user("What?", PNG), max_tokens=left, **given).choices[0].finish_reason == "stop"
        with pytest.raises(openai.BadRequestError, match="the context is full"):
            ask(server, user("What?", PNG), max_tokens=left + 1, **given)


def post(server, body: bytes, kind: str = "application/json") -> tuple[int, dict]:
    """The status of a request and what its reply says."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": kind})
    reply = connection.getresponse()
    values = json.loads(reply.read())
    connection.close()
    return reply.status, values["error"]


def test_what_is_no_request_is_refused(server):
    whole = json.dumps({"messages": [user("Hi")], "max_tokens": 1}).encode()
    for body, named in [
        (b"", "JSON"),
        (whole[:-1], "JSON"),
        (whole.replace(b"Hi", b"\xff"), "JSON"),
        (whole.replace(b"Hi", b"\\ud800"), "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[1]", "object"),
    ]:
        status, error = post(server, body)
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert named in error["message"]
        assert len(error["message"]) < 200
    status, error = post(server, whole, kind="text/plain")  # what a page of another site could send
    assert status == 415 and "application/json" in error["message"]
    assert post_ok(server, whole.replace(b"Hi", b"\\ud83d\\ude00"))


def post_ok(server, body: bytes) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json; charset=utf-8"})
    with contextlib.closing(connection):
        return connection.getresponse().status == 200


def test_a_request_that_is_too_large_gets_one_clear_413(server, monkeypatch):
    monkeypatch.setattr(routes, "MOST_BYTES", 2**20)
    with pytest.raises(openai.APIStatusError, match="the request has more than 1 MB") as refused:
        ask(server, user("What?", b"x" * 5 * 2**20))
    assert refused.value.status_code == 413
    assert refused.value.body["type"] == "invalid_request_error"
    body = json.dumps({"messages": [user("Hi")], "max_tokens": 1}).encode()
    assert post_ok(server, body.ljust(2**20))
    for size in (2**20 + 1, 40 * 2**20):
        assert post(server, body.ljust(size))[0] == 413


@pytest.fixture
def pictures_at(monkeypatch):
    """An http address that holds `PNG`, and the list of what was asked of it."""
    monkeypatch.setenv("no_proxy", "*")
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PNG)

        def log_message(self, *_):
            pass

    holder = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=holder.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{holder.server_address[1]}", asked
    holder.shutdown()
    holder.server_close()


def test_remote_pictures_are_fetched_only_where_that_is_allowed(server, tiny, pictures_at, monkeypatch):
    address, asked = pictures_at
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"{address}/a.png"}}]}
    with pytest.raises(openai.BadRequestError, match="this server fetches no remote pictures"):
        ask(server, message)
    assert not asked
    with serving(tiny, "open", allow_urls=True) as open_server:
        here = {"role": "user", "content": [image(PNG)]}
        assert text_of(ask(open_server, message)) == text_of(ask(open_server, here))
        assert asked == ["/a.png"]
        twice = {"role": "user", "content": message["content"] * 2}
        monkeypatch.setattr("llava.serve.api.routes.MOST_FETCHED", 2 * len(PNG))
        assert ask(open_server, twice, max_tokens=1)
        monkeypatch.setattr("llava.serve.api.routes.MOST_FETCHED", 2 * len(PNG) - 1)
        with pytest.raises(openai.BadRequestError, match="the images at the URLs have more than"):
            ask(open_server, twice)
        monkeypatch.setattr("llava.vision.download.MOST_BYTES", len(PNG) - 1)
        with pytest.raises(openai.BadRequestError, match=r"cannot read the image http.*/a.png: it has more than"):
            ask(open_server, message)


def test_where_the_queue_is_full_the_client_may_try_again(tiny):
    queue = Queue(most=1)
    with serving(tiny, "llava-tiny", turn=queue) as full:
        place = queue.enter()
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as refused:
                ask(full, user("Hi"), stream=stream)
            assert refused.value.code == "rate_limit_exceeded"
            assert int(refused.value.response.headers["Retry-After"]) > 0
        place.leave()
        assert ask(full, user("Hi"), max_tokens=3).usage.completion_tokens > 0


def test_a_client_that_goes_away_while_it_reads_ends_its_answer(endless):
    stream = ask(endless, user("Go on.", PNG), stream=True)
    wait_for(lambda: len(endless.passes) > 5)
    stream.close()
    wait_for(lambda: endless.turn.inside == 0)
    assert len(endless.passes) < 400  # the context has room for far more
    assert ask(endless, user("Go on.", PNG), max_tokens=3).usage.completion_tokens == 3


def test_a_client_that_goes_away_while_it_waits_ends_its_answer(endless):
    body = json.dumps({"messages": [user("Go on.", PNG)], "temperature": 0}).encode()
    first, second = (http.client.HTTPConnection("127.0.0.1", endless.port) for _ in range(2))
    first.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    wait_for(lambda: len(endless.passes) > 5)
    second.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    wait_for(lambda: sum(thread.name == "answering" for thread in threading.enumerate()) == 2)
    second.close()  # before its turn: nothing is computed for it
    time.sleep(0.1)
    first.close()
    wait_for(lambda: all(thread.name != "answering" for thread in threading.enumerate()))
    assert sum(length > 1 for length in endless.passes) == 1  # one prompt
    assert len(endless.passes) < 400


@contextlib.contextmanager
def failing(server, error: Exception, at: int):
    """The decoder raises at its pass number `at` from now."""
    left = [at]

    def fail(*_):
        left[0] -= 1
        if not left[0]:
            raise error

    hook = server.model.model.layers[1].register_forward_pre_hook(fail)
    yield
    hook.remove()


def test_a_failure_shows_and_the_server_goes_on(server, caplog):
    memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    with failing(server, memory, 1), pytest.raises(openai.BadRequestError, match="takes too much memory"):
        ask(server, user("Hi"))
    with failing(server, RuntimeError("secret path"), 1), pytest.raises(openai.InternalServerError) as failed:
        ask(server, user("Hi"))
    assert failed.value.body["type"] == "server_error"
    assert "secret" not in str(failed.value) and "secret" in caplog.text
    with failing(server, memory, 10):
        stream = iter(ask(server, user(DESCRIBE, PNG), stream=True))
        assert next(stream).choices[0].delta.role == "assistant"
        with pytest.raises(openai.APIError, match="takes too much memory"):
            list(stream)
    assert server.turn.inside == 0
    assert text_of(ask(server, user(DESCRIBE, PNG)))


def test_without_fastapi_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    spec = importlib.util.spec_from_file_location("routes_alone", routes.__file__)
    with pytest.raises(InputError, match=r"needs FastAPI: pip install -e '\.\[demo\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
