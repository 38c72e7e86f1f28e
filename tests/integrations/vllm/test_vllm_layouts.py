"""Checkpoints of every layout and family, prepared for vLLM, answer as in the package, also split over two ranks."""

import os

import pytest

from llava.integrations.vllm.folder import prepare
from llava.model.converting import convert_checkpoint
from llava.model.template import named_template
from llava.pruning import Settings
from tests.conftest import ask, load, load_script, picture
from tests.integrations.vllm.conftest import MODEL, NO_VLLM, questions, request

pytest.importorskip("vllm.version", reason=NO_VLLM)

WIDE = {"hidden_size": 128, "intermediate_size": 256}  # heads of 32 channels, fewer than which vLLM does not take
SPATIAL = {"mm_patch_merge_type": "spatial", "image_grid_pinpoints": [[336, 336]]}
GRIDS = SPATIAL | {"image_grid_pinpoints": [[168, 336], [336, 168], [336, 336], [504, 168]]}
NEW = 6


@pytest.fixture
def random_checkpoint(tmp_path):
    """A random checkpoint: random_checkpoint("v1.6", "qwen")."""
    make = load_script("make_random_checkpoint").make_checkpoint
    return lambda version, language_model: make(tmp_path, version, language_model, **WIDE)


@pytest.fixture
def asked(tmp_path):
    """Pictures of several shapes with a question each: (file, picture, prompt)."""
    made = []
    for seed, size in enumerate([(200, 150), (120, 300), (168, 168), (400, 90)]):
        image, file = picture(*size, seed=seed), tmp_path / f"{seed}.png"
        image.save(file)
        made.append((file, image, named_template("vicuna_v1").prompt(f"<image>\nIs there a dog {seed}?")))
    return made


def own_ids(checkpoint, asked, settings: Settings, **config) -> list[list[int]]:
    """The package's greedy answers as token ids."""
    loaded = load(checkpoint, **config)
    loaded[1].pruning = settings
    return [ask(loaded, [prompt], [image], NEW)[0] for _, image, prompt in asked]


def as_requests(asked) -> list[dict]:
    return [{"prompt": prompt, "images": [str(file)]} for file, _, prompt in asked]


def test_a_checkpoint_in_transformers_layout(tmp_path, ask_offline, own_answers):
    converted, prepared = tmp_path / "llava-tiny-hf", tmp_path / "prepared"
    convert_checkpoint(str(MODEL), converted, "hf", 10**9)
    prepare(str(converted), prepared)
    first = questions("textvqa")[:80]
    (completions,) = ask_offline(prepared, [request(*q) for q in first], mm_processor_kwargs={"visual_token_num": 16})
    assert [completion["text"] for completion in completions] == own_answers("textvqa", 16)[:80]


@pytest.mark.parametrize(
    ("version", "language_model", "config"),
    [
        ("v1.5", "llama", {}),  # .bin files in two shards, the tower in a folder of its own
        ("v1.5", "qwen", {}),
        ("v1.6", "llama", SPATIAL),  # the tower inside
        ("v1.6", "mistral", GRIDS),
        ("v1.6", "qwen", {"mm_patch_merge_type": "flat"}),
    ],
)
def test_a_random_checkpoint(version, language_model, config, tmp_path, ask_offline, random_checkpoint, asked):
    checkpoint = random_checkpoint(version, language_model)
    prepare(str(checkpoint), tmp_path / "prepared", "vicuna_v1", config)
    tokens = {"visual_token_num": 12}
    (completions,) = ask_offline(tmp_path / "prepared", as_requests(asked), max_tokens=NEW, mm_processor_kwargs=tokens)
    assert [completion["ids"] for completion in completions] == own_ids(checkpoint, asked, Settings(12), **config)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks need two cores")
def test_two_ranks(tmp_path, ask_offline, random_checkpoint, asked, monkeypatch):
    """Each rank has half of the tower's heads; what is kept and said stays the same."""
    checkpoint = random_checkpoint("v1.6", "llama")
    prepare(str(checkpoint), tmp_path / "prepared", "vicuna_v1", SPATIAL)
    methods = ("vispruner", "visionzip", "divprune")
    requests = [each | {"settings": {"pruning_method": name}} for name in methods for each in as_requests(asked)]
    options = {"max_tokens": NEW, "mm_processor_kwargs": {"visual_token_num": 12}}
    own = [own_ids(checkpoint, asked, Settings(12, pruning_method=name), **SPATIAL) for name in methods]
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # a core for each rank, not a NUMA node
    (together,) = ask_offline(
        tmp_path / "prepared", requests, **options, tensor_parallel_size=2, distributed_executor_backend="mp"
    )
    assert [completion["ids"] for completion in together] == [ids for each in own for ids in each]
