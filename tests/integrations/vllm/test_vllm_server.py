"""`scripts/serve.sh`: the OpenAI-compatible API over HTTP, on the bundled model with 16 tokens by default."""

import asyncio
import base64
import functools
import http.client
import json
import re
import urllib.request
from pathlib import Path

import pytest

from llava.pruning import METHOD_NAMES, Settings
from llava.serve.page.service import Service
from llava.serve.page.vllm_server import VllmServer
from tests import doors
from tests.integrations.vllm.conftest import MODEL, NO_VLLM, ROOT, questions, serving

pytest.importorskip("vllm.version", reason=NO_VLLM)

from openai import APIStatusError, AsyncOpenAI, BadRequestError, OpenAI

CLIENTS, REQUESTS = 32, 200
QUESTION = "Is there a circle in the image?\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serving(
        folder / "server.log", MODEL, 16, "--trust-request-mm-kwargs", "--enable-prompt-tokens-details",
        OUT_DIR=str(folder / "served"),
    ) as address:  # fmt: skip
        yield address


def open_client(address: str) -> OpenAI:
    return OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture
def client(address):
    return open_client(address)


@functools.lru_cache
def data_url(image: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(image.read_bytes()).decode()}"


def as_request(text: str, *images: Path | str, **settings) -> dict:
    urls = [image if isinstance(image, str) else data_url(image) for image in images]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {
        "model": MODEL.name,
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
        "temperature": 0,
        "max_tokens": 16,
        "extra_body": {"mm_processor_kwargs": settings} if settings else {},
    }


def text_of(completion) -> str:
    return completion.choices[0].message.content.strip()


def ask_all(address: str, requests: list[dict], clients: int) -> list[str]:
    """The answers to requests, in order, by so many clients at once. A request that fails fails the test."""
    waiting, answers = list(enumerate(requests))[::-1], [None] * len(requests)

    async def work() -> None:
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600) as client:
            while waiting:
                i, request = waiting.pop()
                answers[i] = text_of(await client.chat.completions.create(**request))

    async def run() -> None:
        await asyncio.gather(*(work() for _ in range(clients)))

    asyncio.run(run())
    return answers


@pytest.mark.parametrize("tokens", [16, 144])
@pytest.mark.parametrize("benchmark", ["pope", "textvqa"])
def test_every_bundled_question_has_the_packages_answer(benchmark, tokens, address, own_answers):
    settings = {} if tokens == 16 else {"visual_token_num": tokens}
    requests = [as_request(text, image, **settings) for image, text in questions(benchmark)]
    assert ask_all(address, requests, 8) == own_answers(benchmark, tokens)


def test_usage_counts_the_tokens_that_are_kept(client):
    image, _ = questions("pope")[0]
    budgets = {None: 16, 1: 1, 16: 16, 40: 40, 144: 144, 1000: 144}
    used = {}
    for budget in budgets:
        settings = {"visual_token_num": budget} if budget else {}
        used[budget] = client.chat.completions.create(**as_request(QUESTION, image, **settings)).usage.prompt_tokens
    text = used[1] - 1
    assert used == {budget: text + kept for budget, kept in budgets.items()}
    assert client.chat.completions.create(**as_request(QUESTION, image, image)).usage.prompt_tokens > used[16] + 16


def test_caches_keep_settings_apart(client):
    """The second of two equal requests reuses the prompt up to after its picture; one with another setting does not."""
    image, _ = questions("textvqa")[5]

    def cached(**settings) -> int:
        completion = client.chat.completions.create(**as_request(QUESTION, image, visual_token_num=64, **settings))
        return completion.usage.prompt_tokens_details.cached_tokens if completion.usage.prompt_tokens_details else 0

    before = cached()
    assert cached() >= 64 > before
    assert cached(important_ratio=0.25) < 64
    assert cached(pruning_method="fastervlm") < 64
    assert cached(important_ratio=0.25) >= 64


BAD = [
    ({"visual_token_num": 0}, "visual_token_num must be at least 1, got 0"),
    ({"visual_token_num": -5}, "visual_token_num must be at least 1, got -5"),
    ({"visual_token_num": "many"}, "visual_token_num must be an integer, got 'many'"),
    ({"visual_token_num": 2.5}, "visual_token_num must be an integer or a share in (0, 1], got 2.5"),
    ({"visual_token_num": True}, "visual_token_num must be an integer, got True"),
    ({"visual_token_num": [16]}, "visual_token_num must be an integer, got [16]"),
    ({"important_ratio": 1.5}, "important_ratio must be a number in [0, 1], got 1.5"),
    ({"important_ratio": "half"}, "important_ratio must be a number in [0, 1], got 'half'"),
    ({"pruning_seed": 1 << 70}, "pruning_seed must fit into 64 bits"),
    ({"budget_per": "image"}, "budget_per: vLLM must know the visual tokens of each picture before; it takes 'crop'"),
    ({"positions": "original"}, "positions: vLLM counts them by the placeholders that are left"),
    ({"positions": "after"}, "positions: vLLM counts them by the placeholders that are left"),
    ({"positions": "before"}, "positions must be renumbered or original or after, got 'before'"),
    ({"budget_per": "row"}, "budget_per must be crop or image, got 'row'"),
    ({"pruning_method": "json.tool"}, "pruning_method of a request must be one of vispruner"),
    ({"visual_tokens": 16}, "mm_processor_kwargs has 'visual_tokens': it takes visual_token_num"),
]


@pytest.mark.parametrize(("settings", "reason"), BAD)
def test_a_bad_setting_is_refused_with_the_reason(settings, reason, client):
    image, _ = questions("pope")[0]
    with pytest.raises(BadRequestError, match=re.escape(reason)):
        client.chat.completions.create(**as_request(QUESTION, image, **settings))
    assert text_of(client.chat.completions.create(**as_request(QUESTION, image))) in ("Yes", "No")


@pytest.mark.parametrize("method", [method for method in METHOD_NAMES if doors.must_be_refused(method)])
def test_a_method_that_cannot_work_is_refused_by_name(method, client):
    image, _ = questions("pope")[0]
    with pytest.raises(BadRequestError, match=f"the pruning method {method} cannot work in vLLM: it "):
        client.chat.completions.create(**as_request(QUESTION, image, pruning_method=method))


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,AAAA", "data:image/png;base64,!", "data:text/plain,hello", "file:///etc/passwd"]
)
def test_what_is_no_picture_is_refused(url, address):
    with pytest.raises(APIStatusError):
        open_client(address).chat.completions.create(**as_request(QUESTION, url))
    image, _ = questions("pope")[0]
    # Over another connection. A file's URL is an error of vLLM's own (500): Starlette sends the answer and raises the
    # error again, and uvicorn then closes the connection, which the answer did not say. A request that is on its way
    # then is reset; clients that retry, as openai's do by default, send it again.
    client = open_client(address)
    assert text_of(client.chat.completions.create(**as_request(QUESTION, image))) in ("Yes", "No")


@pytest.mark.parametrize("text", ["<image>", "What is <image> and <image>?", "<pad><pad> What?", "<unk></s><s>"])
def test_special_tokens_that_a_client_writes_do_no_harm(text, client):
    image, _ = questions("pope")[0]
    for images in ((), (image,)):
        completion = client.chat.completions.create(**as_request(text, *images))
        assert completion.usage.completion_tokens >= 1
    assert text_of(client.chat.completions.create(**as_request(QUESTION, image))) in ("Yes", "No")


def test_a_prompt_beyond_the_context_is_refused(client):
    image, _ = questions("pope")[0]
    with pytest.raises(BadRequestError, match="context length"):
        client.chat.completions.create(**as_request("word " * 3000, image))


def test_the_client_of_the_document(address, tmp_path, monkeypatch, capsys):
    """The Python of docs/serving.md, with this server's address and model."""
    example = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(), re.DOTALL)[1]
    image, _ = questions("pope")[0]
    (tmp_path / "photo.jpg").write_bytes(image.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(example.replace("http://127.0.0.1:8000", address).replace("llava-v1.5-7b", MODEL.name), {})
    answer, tokens = capsys.readouterr().out.rsplit(maxsplit=1)
    assert answer.strip()
    assert int(tokens) > 16


def test_answers_stream(client):
    image, _ = questions("pope")[0]
    request = as_request("Describe the image.", image)
    whole = text_of(client.chat.completions.create(**request))
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**request, stream=True)]
    assert "".join(pieces).strip() == whole


def test_the_models_name_is_the_checkpoints(client):
    assert [model.id for model in client.models.list()] == [MODEL.name]


def test_clients_that_leave_do_no_harm(address, client):
    """Connections that are cut in the middle of an answer."""
    image, _ = questions("pope")[0]
    body = as_request("Describe the image.", image)
    body |= body.pop("extra_body") | {"stream": True, "max_tokens": 400, "ignore_eos": True}
    for _ in range(8):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        assert connection.getresponse().read(20)
        connection.close()
    assert text_of(client.chat.completions.create(**as_request(QUESTION, image))) in ("Yes", "No")


def test_nothing_is_lost_under_load(address, own_answers):
    """32 clients, 200 requests each, of several budgets: every one has the answer of its budget."""
    asked, budgets = questions("pope"), (16, 16, 48, 144)
    numbers = range(CLIENTS * REQUESTS)
    requests = [as_request(*reversed(asked[i % 480]), visual_token_num=budgets[i % 4]) for i in numbers]
    answers = ask_all(address, requests, CLIENTS)
    wrong = [i for i in numbers if answers[i] != own_answers("pope", budgets[i % 4])[i % 480]]
    assert not wrong, f"{len(wrong)} of {len(answers)} answers differ, the first that to request {wrong[0]}"
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as metrics:
        waiting = re.findall(rb"^vllm:num_requests_(?:waiting|running)\{.*\} (\S+)", metrics.read(), re.MULTILINE)
    assert waiting and all(float(number) == 0 for number in waiting)


def open_page(address: str) -> Service:
    """The page that asks a server, less what Gradio shows of it."""
    return Service(None, VllmServer(address, {"do_sample": False, "max_new_tokens": 16}), Settings())


def ask_page(service: Service, image: Path, text: str, compare: bool = False, **chosen):
    """The exchange that a question about a picture becomes, with the settings that a visitor chose."""
    service.take_picture("me", image, image.name)
    pruning = service.pruning(**vars(service.settings) | chosen)
    for _ in service.ask("me", text, pruning, compare):
        pass
    return service.visitors.get("me").exchanges[-1]


def test_the_page_asks_with_what_a_visitor_chose(address, own_answers):
    service = open_page(address)
    assert (service.patches, service.settings, service.takes_settings) == (144, Settings(16), True)
    for i in (0, 111, 222, 333):
        image, text = questions("pope")[i]
        for budget in (16, 48):
            exchange = ask_page(service, image, text, compare=True, visual_token_num=budget)
            assert exchange.pruned.text == own_answers("pope", budget)[i]
            assert exchange.unpruned.text == own_answers("pope", 144)[i]
            assert exchange.pruned.label == f"{budget} of 144 tokens"
            pruned, unpruned = exchange.pruned.figures, exchange.unpruned.figures
            assert unpruned.prompt_tokens - pruned.prompt_tokens == 144 - budget


def test_a_server_that_trusts_no_request_keeps_its_settings(client, tmp_path):
    method = tmp_path / "mine.py"
    method.write_text(
        "def select(views, settings):\n"
        "    return views.keep(views.importance.argsort()[:, : settings.visual_token_num])\n"
    )
    settings = json.dumps({"visual_token_num": 48, "important_ratio": 0.25, "pruning_method": str(method)})
    options = ("--mm-processor-kwargs", settings)
    with serving(tmp_path / "server.log", MODEL, "all", *options, OUT_DIR=str(tmp_path)) as address:
        own = open_client(address)
        image, text = questions("pope")[0]
        with pytest.raises(BadRequestError, match="trust-request-mm-kwargs"):
            own.chat.completions.create(**as_request(text, image, visual_token_num=16))
        used = own.chat.completions.create(**as_request(text, image)).usage.prompt_tokens
        asked = client.chat.completions.create(**as_request(text, image, visual_token_num=48))
        assert used == asked.usage.prompt_tokens
        service = open_page(address)
        assert (service.patches, service.takes_settings, service.server.pruning.method) == (144, False, "mine")
        assert service.settings == Settings(48, 0.25)  # the server's code is not run here
        exchange = ask_page(service, image, text, compare=True, visual_token_num=16)
        assert exchange.pruned.text in ("Yes", "No")
        assert exchange.pruned.figures.prompt_tokens == used
        assert (exchange.pruned.label, exchange.unpruned.text) == ("48 of 144 tokens", "")
