"""`scripts/serve.sh` with a host: its checkpoint as it is, a quarter of each picture's tokens by default."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.integrations.vllm.conftest import NO_VLLM, ROOT, serving

pytest.importorskip("vllm.version", reason=NO_VLLM)

from openai import BadRequestError

from tests.integrations.vllm.random_hosts import HOSTS, NEW, Truth, make, requests
from tests.integrations.vllm.test_vllm_server import as_request, ask_all, open_client

PROMPTS = int(os.environ.get("VLLM_PROMPTS", 16))
CLIENTS, REQUESTS = 32, 50
BUDGETS = (0.25, 1.0, 0.1, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(HOSTS["qwen3_vl"], tmp_path_factory.mktemp("host") / "random")


@pytest.fixture(scope="module")
def address(folder, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "server.log"
    with serving(log, folder, 0.25, "--trust-request-mm-kwargs") as address:
        yield address


@pytest.fixture(scope="module")
def truth(folder):
    return Truth(HOSTS["qwen3_vl"], folder)


def chat(request: dict, **settings) -> dict:
    """A request of `requests` for the API: its pictures, and then its words."""
    words = re.sub(r"<\|.*?\|>", "", request["prompt"])
    return as_request(words, *map(Path, request["images"]), **settings) | {"model": "random", "max_tokens": NEW}


def said(truth: Truth, asked: list[dict], number: int | float) -> list[str]:
    """`prune`'s answers, as text, to what `chat` asks."""
    prompts = []
    for request in asked:
        content = [{"type": "image"} for _ in request["images"]]
        content.append({"type": "text", "text": re.sub(r"<\|.*?\|>", "", request["prompt"])})
        messages = [{"role": "user", "content": content}]
        prompts.append(request | {"prompt": truth.processor.apply_chat_template(messages, tokenize=False)})
    answers = truth.answers(prompts, visual_token_num=number)
    return [truth.processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]


def test_answers_are_prunes(address, truth, tmp_path):
    asked = requests(tmp_path, PROMPTS)
    assert ask_all(address, [chat(request) for request in asked], 8) == said(truth, asked, 0.25)


@pytest.mark.skipif(PROMPTS <= 16, reason="VLLM_PROMPTS=200 asks every host over HTTP, each of a server of its own")
@pytest.mark.parametrize("name", [name for name in HOSTS if name != "qwen3_vl"])
def test_answers_of_every_host_are_prunes(name, tmp_path):
    folder = make(HOSTS[name], tmp_path / "random")
    asked = requests(tmp_path / "pictures", PROMPTS, sizes=HOSTS[name].sizes)
    options = ("--no-enable-prefix-caching",) if name.startswith("qwen3_5") else ()  # as in test_vllm_hosts
    with serving(tmp_path / "server.log", folder, 0.25, *options) as address:
        assert ask_all(address, [chat(request) for request in asked], 8) == said(
            Truth(HOSTS[name], folder), asked, 0.25
        )


def test_nothing_is_lost_under_load(address, truth, tmp_path):
    """32 clients, 50 requests each, of several shares on the same pictures."""
    asked = requests(tmp_path, 10, seed=2)
    wanted = {budget: said(truth, asked, budget) for budget in BUDGETS}
    places = [(i % len(asked), BUDGETS[i % len(BUDGETS) - i // len(asked) % 2]) for i in range(CLIENTS * REQUESTS)]
    answers = ask_all(address, [chat(asked[i], visual_token_num=budget) for i, budget in places], CLIENTS)
    assert answers == [wanted[budget][i] for i, budget in places]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"visual_token_num": -1}, "visual_token_num must be at least 1, got -1"),
        ({"visual_token_num": 0.0}, "visual_token_num must be an integer or a share in (0, 1], got 0.0"),
        ({"visual_token_num": 1.5}, "visual_token_num must be an integer or a share in (0, 1], got 1.5"),
        ({"visual_token_num": "many"}, "visual_token_num must be an integer, got 'many'"),
        ({"visual_tokens_num": 16}, "mm_processor_kwargs has 'visual_tokens_num': the setting is visual_token_num"),
        ({"pruning_method": "visionzip"}, "the pruning method visionzip cannot work in vLLM: "),
        ({"pruning_method": "mmtok"}, "the pruning method mmtok cannot work in vLLM: it chooses by the question"),
    ],
)
def test_a_bad_setting_is_refused_with_the_reason(settings, reason, address, tmp_path):
    client, (request,) = open_client(address), requests(tmp_path, 1)
    with pytest.raises(BadRequestError, match=re.escape(reason)):
        client.chat.completions.create(**chat(request, **settings))
    assert client.chat.completions.create(**chat(request)).usage.completion_tokens >= 1


def test_what_the_server_keeps_is_said(address):
    with urllib.request.urlopen(f"{address}/pruning", timeout=60) as answer:
        kept = json.load(answer)
    assert (kept["patches"], kept["takes_settings"], kept["settings"]["visual_token_num"]) == (None, True, 0.25)


REFUSED = [
    (("--mm-encoder-tp-mode", "data"), "--mm-encoder-tp-mode data cannot be combined with pruned pictures: "),
    (("--video-pruning-rate", "0.5"), "--video-pruning-rate cannot be combined"),
    (("--enable-mm-embeds",), "--enable-mm-embeds cannot be combined"),
    (("--pipeline-parallel-size", "2"), "--pipeline-parallel-size cannot be combined"),
    (("--compilation-config", '{"compile_mm_encoder": true}'), "compile_mm_encoder cannot be combined"),
    (("--compilation-config", '{"cudagraph_mm_encoder": true}'), "cudagraph_mm_encoder cannot be combined"),
    (("--enable-lora", "--enable-tower-connector-lora"), "--enable-tower-connector-lora cannot be combined"),
    (("--mm-processor-kwargs", '{"visual_token_num": 2.5}'), "visual_token_num must be an integer or a share"),
    (("--mm-processor-kwargs", '{"pruning_method": "fastv"}'), "the pruning method fastv cannot work in vLLM"),
    (("--mm-processor-kwargs", '{"pruning_method": "visionzip"}'), "the pruning method visionzip cannot work in vLLM"),
    (("--mm-processor-kwargs", '{"budget_per": "image"}'), "budget_per: vLLM must know"),
]


def test_what_does_not_go_together_is_refused_at_the_start(folder, tmp_path):
    """All in one process, since vLLM takes seconds to import."""
    other = HOSTS["internvl"]
    model = ("--model", str(make(other, tmp_path / "other")), "--hf-overrides")
    overrides = {"architectures": [other.architecture]}
    shared = (*model, json.dumps(overrides), "--mm-processor-kwargs", '{"visual_token_num": 9, "budget_per": "image"}')
    of_first_layer = (*model, json.dumps(overrides | {"vision_feature_layer": 1}))
    refused = [*REFUSED, (of_first_layer, "vision_feature_layer cannot be combined with pruned pictures: vLLM's")]
    code = """
import json, sys
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
for options in json.loads(sys.argv[1]):
    try:
        EngineArgs.from_cli_args(parser.parse_args(options)).create_engine_config()
    except ValueError as error:
        print("refused:", " ".join(str(error).split()))
    else:
        print("taken")
"""
    overrides = json.dumps({"architectures": [HOSTS["qwen3_vl"].architecture]})
    fixed = ("--model", str(folder), "--hf-overrides", overrides, "--dtype", "float32", "--block-size", "32")
    asked = json.dumps([[*fixed, *options] for options in [(), shared, *(options for options, _ in refused)]])
    done = subprocess.run([sys.executable, "-c", code, asked], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("refused: ", "taken"))]
    assert len(lines) == 2 + len(refused), done.stderr[-3000:]
    assert lines[:2] == ["taken"] * 2
    wrong = [(line, reason) for line, (_, reason) in zip(lines[2:], refused) if reason not in line]
    assert not wrong
