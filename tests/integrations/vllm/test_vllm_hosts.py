"""vLLM's own models with pruned pictures answer as `prune` on transformers' does. VLLM_PROMPTS=200 asks more."""

import os

import pytest

from tests.integrations.vllm.conftest import NO_VLLM

pytest.importorskip("vllm.version", reason=NO_VLLM)

from llava.errors import InputError
from llava.integrations.transformers.hosts import known_hosts
from llava.integrations.vllm.hosts.grids import GridInfo
from llava.integrations.vllm.settings import read_budget
from llava.pruning import METHOD_NAMES
from tests.integrations.vllm.random_hosts import HOSTS, NEW, Truth, make, requests, video_requests

PROMPTS = int(os.environ.get("VLLM_PROMPTS", 16))
OPTIONS = {  # of vLLM, some for each host
    "qwen2_5_vl windows": {"max_num_batched_tokens": 64, "enable_chunked_prefill": True},  # pictures are cut
    "qwen3_vl": {"max_num_batched_tokens": 64, "enable_chunked_prefill": True},
    "qwen2_vl": {"enable_prefix_caching": False, "mm_processor_cache_gb": 0},
    "qwen3_5": {"enable_prefix_caching": False},  # on a CPU it cannot be had with layers of attention alone
}


def served(method: str) -> bool:
    try:
        return bool(read_budget({"pruning_method": method}, tower=GridInfo.tower))
    except InputError:
        return False


MIXED = [
    {"visual_token_num": None},
    {"visual_token_num": 1.0},
    {"visual_token_num": 1},
    {"visual_token_num": 16, "important_ratio": 0.25},
    {"visual_token_num": 0.5},
    *({"pruning_method": method, "pruning_seed": 3} for method in METHOD_NAMES if served(method)),
]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The folder of a random checkpoint and transformers' model on it, by the name in HOSTS; each is made once."""
    made = {}

    def get(name: str):
        if HOSTS[name].name not in known_hosts():
            pytest.skip(f"prune does not know {HOSTS[name].name}, to compare with")
        if name not in made:
            folder = make(HOSTS[name], tmp_path_factory.mktemp("host") / "random")
            made[name] = folder, Truth(HOSTS[name], folder)
        return made[name]

    return get


def options(name: str, **more) -> dict:
    overrides = {"architectures": [HOSTS[name].architecture]}
    return {"hf_overrides": overrides, "max_tokens": NEW, **OPTIONS.get(name, {}), **more}


def ids(completions: list[dict]) -> list[list[int]]:
    return [completion["ids"] for completion in completions]


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_answers_as_prune_does(name, known, ask_offline, tmp_path):
    """Pictures of many sizes, again with what is cached, every setting side by side in one batch, and videos."""
    folder, truth = known(name)
    asked = requests(tmp_path / "pictures", PROMPTS)
    mixed = [request | {"settings": own} for request in asked[:4] for own in MIXED]
    films = video_requests(tmp_path / "videos", 5)
    server = {"visual_token_num": 0.25}
    first, again, each, moving = ask_offline(
        folder, asked, asked, mixed, films, **options(name, mm_processor_kwargs=server)
    )
    wanted = truth.answers(asked, **server)
    assert len(set(map(tuple, wanted))) > 0.8 * len(wanted)  # answers that are all the same would show nothing
    assert ids(first) == ids(again) == wanted
    assert [one["prompt_tokens"] for one in first] == [truth.prompt_tokens(request, 0.25) for request in asked]
    assert ids(each) == truth.answers(mixed, **server)
    assert ids(moving) == truth.answers(films, **server)


def test_a_share_of_all_is_vllms_own_model(known, ask_offline, tmp_path):
    folder, _ = known("qwen2_5_vl")
    asked = requests(tmp_path, PROMPTS)
    ours = ask_offline(folder, asked, **options("qwen2_5_vl", mm_processor_kwargs={"visual_token_num": 1.0}))
    assert ours == ask_offline(folder, asked, max_tokens=NEW)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks need two cores")
def test_two_ranks(known, ask_offline, tmp_path, monkeypatch):
    """Each rank has half of the tower's heads."""
    folder, truth = known("qwen3_vl")
    asked = requests(tmp_path, PROMPTS)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # a core for each rank, not a NUMA node
    more = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    server = {"visual_token_num": 0.25}
    (together,) = ask_offline(folder, asked, **options("qwen3_vl", mm_processor_kwargs=server, **more))
    assert ids(together) == truth.answers(asked, **server)
