"""vLLM's own models with pruned pictures answer as `prune` on transformers' does. VLLM_PROMPTS=200 asks more."""

import os
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import picture
from tests.integrations.vllm.conftest import NO_VLLM

pytest.importorskip("vllm.version", reason=NO_VLLM)

from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava.errors import InputError
from llava.integrations.transformers.hosts import known_hosts
from llava.integrations.vllm.hosts.mrope import PrunedMRoPE
from llava.integrations.vllm.settings import pack, read_budget, tower_of
from llava.pruning import METHOD_NAMES, Settings
from tests.integrations.vllm.random_hosts import HOSTS, IMAGE, NEW, SPECIAL, Truth, make, requests, video_requests

PROMPTS = int(os.environ.get("VLLM_PROMPTS", 16))
OPTIONS = {  # of vLLM, some for each host
    "qwen2_5_vl windows": {"max_num_batched_tokens": 64, "enable_chunked_prefill": True},  # pictures are cut
    "qwen3_vl": {"max_num_batched_tokens": 64, "enable_chunked_prefill": True},
    "qwen2_vl": {"enable_prefix_caching": False, "mm_processor_cache_gb": 0},
    "qwen3_5": {"enable_prefix_caching": False},  # on a CPU it cannot be had with layers of attention alone
    "qwen3_5_moe": {"enable_prefix_caching": False},
    "internvl": {"max_num_batched_tokens": 64, "enable_chunked_prefill": True},
}
OWN = ("qwen2_5_vl", "internvl")
PER_IMAGE = [{"visual_token_num": number, "budget_per": "image"} for number in (21, 0.3, 1000)]
MORE = dict.fromkeys(("internvl", "llava_next", "llava_onevision"), PER_IMAGE)  # settings that some hosts can have


def served(method: str, name: str) -> bool:
    try:
        tower = tower_of(SimpleNamespace(architectures=[HOSTS[name].architecture]))
        return bool(read_budget({"pruning_method": method}, tower=tower))
    except InputError:
        return False


MIXED = [
    {"visual_token_num": None},
    {"visual_token_num": 1.0},
    {"visual_token_num": 1},
    {"visual_token_num": 16, "important_ratio": 0.25},
    {"visual_token_num": 0.5},
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
    """Pictures of many sizes, again with what is cached, every setting side by side in one batch, videos, and all kept.

    Of some hosts vLLM's own class is asked too.
    """
    folder, truth = known(name)
    asked = requests(tmp_path / "pictures", PROMPTS, sizes=HOSTS[name].sizes)
    methods = [{"pruning_method": method, "pruning_seed": 3} for method in METHOD_NAMES if served(method, name)]
    mixed = [request | {"settings": own} for request in asked[:4] for own in (*MIXED, *methods, *MORE.get(name, ()))]
    films = video_requests(tmp_path / "videos", 5, HOSTS[name].sizes) if HOSTS[name].has_videos else []
    films += [film | {"settings": own} for film in films[:1] for own in MORE.get(name, ())]
    server = {"visual_token_num": 0.25}
    whole = [request | {"settings": {"visual_token_num": 1.0}} for request in asked]
    first, again, each, moving, all_kept = ask_offline(
        folder, asked, asked, mixed, films, whole, **options(name, mm_processor_kwargs=server)
    )
    wanted = truth.answers(asked, **server)
    assert len(set(map(tuple, wanted))) > 0.8 * len(wanted)  # answers that are all the same would show nothing
    assert ids(first) == ids(again) == wanted
    assert [one["prompt_tokens"] for one in first] == [truth.prompt_tokens(request, 0.25) for request in asked]
    assert ids(each) == truth.answers(mixed, **server)
    assert ids(moving) == truth.answers(films, **server)
    if name in OWN:
        (own,) = ask_offline(folder, asked, max_tokens=NEW, **OPTIONS.get(name, {}))
        assert [said(one) for one in all_kept] == [said(one) for one in own]


def said(completion: dict) -> dict:
    """A completion, less what was in a cache."""
    return completion | {"cached_tokens": None}


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_a_picture_with_padding_is_refused(name, known):
    """4 x 4 patches a crop: a picture of 112 x 56 pixels (width, height) fills 2 x 1, one of 100 x 60 not its 2 x 2."""
    overrides = {"architectures": [HOSTS[name].architecture]}
    server = {"visual_token_num": 0.5}
    args = EngineArgs(str(known(name)[0]), hf_overrides=overrides, dtype="float32", mm_processor_kwargs=server)
    processor = MULTIMODAL_REGISTRY.create_processor(args.create_model_config())

    def tokens(width: int, height: int, **settings) -> int:
        items = processor.info.parse_mm_data({"image": [picture(width, height)]})
        made = processor(SPECIAL[IMAGE], items, hf_processor_mm_kwargs=settings)
        return made["prompt_token_ids"].count(IMAGE)

    assert tokens(112, 56) == 3 * 8 + 4
    assert tokens(112, 56, visual_token_num=5) == 3 * 5 + 4
    assert tokens(112, 56, visual_token_num=5, budget_per="image") == 5 + 4
    with pytest.raises(InputError, match=r"^a picture of 100 x 60 pixels does not fill its 2 x 2 crops, so .*: pad or"):
        tokens(100, 60)
    assert tokens(100, 60, visual_token_num=None) == 16 + 4 * (8 + 1)  # two rows are padding, above and below


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


class Plain:
    """In place of a model: what it is given."""

    def embed_input_ids(self, input_ids, multimodal_embeddings, *, is_multimodal):
        return torch.cat(list(multimodal_embeddings))

    def forward(self, input_ids, positions, intermediate_tensors, inputs_embeds):
        return positions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_and_columns_are_exact_in_every_dtype(dtype):
    """A picture of 2 x 1,000 tokens, of which 300 are kept: bfloat16 has no 257."""

    class Stub(PrunedMRoPE, Plain):
        def __init__(self):
            self.server_settings, self.steps = {}, torch.zeros(3, 512, dtype=torch.long)
            self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=8))
            self.visual = SimpleNamespace(spatial_merge_size=2, dtype=dtype, input_norm=lambda pixels, dtype: pixels)

    stub, tokens = Stub(), torch.randn(2000, 8).to(dtype)
    importance = torch.rand(1, 2000, generator=torch.Generator().manual_seed(0))
    kept = importance[0].topk(300).indices.sort().values
    row, pixels, grid = (
        pack(Settings(300, pruning_method="fastervlm")),
        torch.zeros(8000, 3),
        torch.tensor([1, 4, 2000]),
    )
    made = stub._prune(tokens, pixels, grid, row, lambda: importance, 0)
    is_own = torch.tensor([False] * 5 + [True] * 300)
    assert torch.equal(stub.embed_input_ids(torch.zeros(305), [made[:7], made[7:]], is_multimodal=is_own), tokens[kept])
    wanted = torch.full((3, 305), 20)
    wanted[1, 5:] += kept // 1000
    wanted[2, 5:] += kept % 1000
    assert torch.equal(stub.forward(None, torch.full((3, 305), 20)), wanted)
    stub.embed_input_ids(torch.zeros(2), [made[:1]], is_multimodal=torch.tensor([True, False]))
    assert not stub.steps[:, 1:].any()  # the last step's are gone
