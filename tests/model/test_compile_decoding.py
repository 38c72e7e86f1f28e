"""Decoding with a static cache, and compiled, where there is a compiler: the answers are those of the plain way."""

import shutil

import pytest
import torch
from transformers.generation import CompileConfig

from llava.model.kv_cache import ReusedCache
from llava.pruning import Settings
from tests.conftest import IMAGE, ask, load, picture

PROMPTS = [f"A {IMAGE} dog?", f"{IMAGE}\nand a much longer question about {IMAGE} the two", "no picture"]
IMAGES = [picture(200, 150, 1), picture(90, 300, 2), picture(400, 120, 3)]


@pytest.fixture
def llava(loaded, request):
    llava = loaded(*request.param)
    yield llava
    llava[1].compile_decoding = False


@pytest.mark.parametrize("llava", [("v1.5", "llama"), ("v1.6", "qwen"), ("v1.5", "mistral")], indirect=True)
@pytest.mark.parametrize("pruning", [Settings(), Settings(16), Settings(16, pruning_method="fastv")], ids=str)
def test_a_static_cache_changes_no_answer(llava, pruning):
    """FastV's cannot stay in place, and does not."""
    model = llava[1]
    model.pruning = pruning
    expected = [ask(llava, PROMPTS, IMAGES), ask(llava, PROMPTS[:1], IMAGES[:1])]
    model.compile_decoding = True
    for _ in range(2):
        assert [ask(llava, PROMPTS, IMAGES), ask(llava, PROMPTS[:1], IMAGES[:1])] == expected


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("llava", [("v1.5", "llama")], indirect=True)
@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_the_step_that_is_compiled_gives_the_same_answers(llava, positions):
    model = llava[1]
    model.pruning = Settings(16, positions=positions)
    expected = ask(llava, PROMPTS[:1], IMAGES[:1])
    model.compile_decoding = True
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.generation_config.compile_config = CompileConfig(mode="default", fullgraph=True)
    model.generation_config.compile_config._compile_all_devices = True  # as transformers' own tests have it
    try:
        assert ask(llava, PROMPTS[:1], IMAGES[:1]) == expected
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
        assert not torch._dynamo.utils.counters["graph_break"]
    finally:
        model.generation_config.compile_config = None
        torch._dynamo.reset()


def test_a_cache_is_used_again_while_it_fits(loaded):
    caches = ReusedCache(loaded()[1].config)

    def lent(batch: int, length: int):
        with caches.lend(batch, length) as cache:
            return cache

    first = lent(1, 200)
    assert lent(1, 256) is first
    with caches.lend(1, 256) as held:
        assert held is first
        assert lent(1, 256) is not first  # as another thread would ask
    assert lent(1, 257) is not first
    assert lent(2, 257) is not lent(1, 257)


def test_a_cache_made_in_inference_mode_serves_there_alone(checkpoints):
    """The engine asks in inference mode, `generate` without; the memory of one cannot be written to by the other."""
    _, model, image_processor, _ = load(checkpoints())
    pixels = image_processor([picture()], return_tensors="pt").pixel_values
    ids = torch.tensor([[1, -200, 5]])
    options = {"images": pixels, "do_sample": False, "max_new_tokens": 4}
    expected = model.generate(ids, **options).tolist()
    model.compile_decoding = True
    with torch.inference_mode():
        inside = model.generate(ids, **options).tolist()
    assert inside == model.generate(ids, **options).tolist() == expected
