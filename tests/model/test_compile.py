"""`compile`: what is recorded gives the same answers, whatever is asked, and what cannot be is said.

Where there is no GPU, `tests.tape` records: the same operations on the same memory, without the Python around them.
"""

import argparse
import copy
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from llava.inference.options import add_compile_argument, model_options
from llava.model.fixed_cache import PROMPT, WHOLE, padded_length
from llava.pruning import METHOD_NAMES, Settings
from tests import tape
from tests.conftest import IMAGE, ask, inputs_of, load, picture
from tests.tape import said

PROMPTS = [f"A {IMAGE} dog?", f"{IMAGE}\nand a much longer question about {IMAGE} the two", "no picture"]
IMAGES = [picture(200, 150, 1), picture(90, 300, 2), picture(400, 120, 3)]
ALIKE = [picture(200, 150, seed) for seed in (1, 4, 5)]  # the same number of crops
LOGITS = {"do_sample": False, "max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
UNRECORDED = {"hiprune", "holov", "pool", "prunesid", "random", "uniform", "cdpruner", "mmtok", "dart_embeds"}


def tensors_of(visual: list) -> list[torch.Tensor]:
    return [part for image in visual for part in (getattr(image, "tokens", image), getattr(image, "places", None))]


@pytest.mark.parametrize(
    ("version", "method", "more"),
    [
        *(("v1.5", method, {"positions": "original"}) for method in METHOD_NAMES),
        *(("v1.6", method, {"positions": "after"}) for method in ("vispruner", "visionzip", "none")),
        ("v1.6", "divprune", {"budget_per": "image"}),
    ],
)
def test_every_method_chooses_the_same_again(recorded, caplog, version, method, more):
    """Bit for bit, of pictures that were not there when the graph was recorded; else it says why it has none."""
    llava = recorded(version)
    model, questions = llava[1], ["Which?"] if Settings(pruning_method=method).method.needs else None
    pruning = Settings(16, pruning_method=method, **more)
    for image in ALIKE:
        given = inputs_of(llava, [IMAGE], [image])[1]["images"], [image.size], pruning, questions
        model.records = False
        expected = tensors_of(model.embed_images(*given))
        model.records = True
        for own, other in zip(tensors_of(model.embed_images(*given)), expected, strict=True):
            assert own is other is None or torch.equal(own, other)
    reasons = said(caplog)
    assert len(reasons) == (method in UNRECORDED)
    assert all(f"the selection by {method} runs uncompiled: " in reason for reason in reasons)


@pytest.mark.parametrize(
    ("checkpoint", "pruning"),
    [
        (("v1.5", "llama"), Settings()),
        *((("v1.5", "llama"), Settings(16, positions=own)) for own in ("renumbered", "original", "after")),
        (("v1.5", "mistral"), Settings(16)),
        (("v1.6", "qwen"), Settings(16, positions="original")),
    ],
    ids=str,
)
def test_logits_of_padded_prompts(recorded, caplog, checkpoint, pruning):
    """Alone and in a batch of several lengths, which differ from the length that they are padded to."""
    llava = recorded(*checkpoint)
    model = llava[1]
    for prompts, images in ((PROMPTS[:1], ALIKE[:1]), (PROMPTS[:1], ALIKE[1:2]), (PROMPTS, IMAGES)):
        ids, given = inputs_of(llava, prompts, images)
        found = model.generate(ids, **given, pruning=pruning, **LOGITS)
        model.records = False
        expected = model.generate(ids, **given, pruning=pruning, **LOGITS)
        model.records = True
        assert torch.equal(found.sequences, expected.sequences)
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), rtol=1e-5, atol=2e-6)
    assert not said(caplog)


def test_a_prompt_of_a_length_of_graphs_has_the_bits_of_the_uncompiled_one(recorded):
    """The same kernels run. Padding changes how many rows they have, and with that perhaps the last bit."""
    llava = recorded()
    model = llava[1]
    ids, given = torch.tensor([[1, -200, *range(20, 66)]]), inputs_of(llava, [IMAGE], ALIKE[:1])[1]
    assert model.embed_prompts(ids, None, None, given["images"], None, "left").longest == 191
    for more, same in (([70], True), ([], False)):
        whole = torch.cat([ids, torch.tensor([more], dtype=torch.long)], dim=1)
        model.records = False
        plain = model.generate(whole, **given, **LOGITS).logits[0]
        model.records = True
        assert torch.equal(model.generate(whole, **given, **LOGITS).logits[0], plain) or not same


def test_weights_that_are_put_elsewhere_are_recorded_anew(recorded, monkeypatch):
    llava = recorded()
    model = copy.deepcopy(llava[1])  # which has recorded nothing yet
    llava = (llava[0], model, *llava[2:])
    tape.use_in(monkeypatch, model)
    before = ask(llava, PROMPTS[:1], ALIKE[:1])
    first = model.graphs
    assert copy.deepcopy(model).graphs.of != first.of
    model.set_attn_implementation("eager")
    tape.use_in(monkeypatch, model)
    assert model.graphs is not first
    assert ask(llava, PROMPTS[:1], ALIKE[:1]) == before
    model.lm_head.weight.data = model.lm_head.weight.data.flip(0)
    assert model.graphs is not first
    flipped = ask(llava, PROMPTS[:1], ALIKE[:1])
    model.records = False
    assert ask(llava, PROMPTS[:1], ALIKE[:1]) == flipped != before


def test_a_tower_with_an_encode_of_its_own_is_said_and_asked(recorded, caplog, monkeypatch):
    llava = recorded()
    tower = llava[1].get_vision_tower()

    class Own(type(tower)):
        def encode(self, images):
            return super().encode(images)

    monkeypatch.setattr(tower, "__class__", Own)
    found = ask(llava, PROMPTS[:1], ALIKE[:1])
    assert said(caplog) == ["compile: the vision tower runs uncompiled: Own has an encode of its own"]
    llava[1].records = False
    assert ask(llava, PROMPTS[:1], ALIKE[:1]) == found


def test_a_user_s_method_is_asked_each_time(recorded, caplog, tmp_path):
    """It may choose otherwise than before."""
    llava, path = recorded(), tmp_path / "mine.py"
    path.write_text(
        "import itertools\nimport torch\n\nTURNS = itertools.count()\n\n\ndef select(views, settings):\n"
        "    first = next(TURNS)\n"
        "    return views.keep(torch.arange(first, first + 16).expand(len(views.features), -1))\n"
    )
    given = inputs_of(llava, [IMAGE], ALIKE[:1])[1]["images"], None, Settings(16, pruning_method=str(path))
    first, second = (llava[1].embed_images(*given)[0] for _ in range(2))
    assert torch.equal(first[1:], second[:-1])
    assert "a user's method" in said(caplog)[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_step_by_inductor_gives_the_same_answers(recorded, caplog):
    llava = recorded()
    model = llava[1]
    model.pruning = Settings(16, positions="original")
    model.records = False
    expected = ask(llava, PROMPTS[:1], ALIKE[:1])
    ids, given = inputs_of(llava, PROMPTS[:1], ALIKE[:1])
    model.generate(
        ids, **given, max_new_tokens=2, output_hidden_states=True, return_dict_in_generate=True
    )  # leaves hooks
    model.records = True
    model.graphs.recorder.fuses, model.graphs.recorder.record = True, None
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    try:
        assert ask(llava, PROMPTS[:1], ALIKE[:1]) == expected
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
        assert ask(llava, PROMPTS[:1], ALIKE[:1]) == expected
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    finally:
        torch._dynamo.reset()
    assert not said(caplog)


def test_a_step_that_inductor_cannot_have_is_recorded_without(recorded, caplog, monkeypatch):
    llava = recorded()
    expected = ask(llava, PROMPTS[:1], ALIKE[:1])
    tape.use_in(monkeypatch, llava[1])
    llava[1].graphs.recorder.fuses = True

    def fail(*args, **kwargs):
        raise OSError("no compiler")

    monkeypatch.setattr(torch, "compile", fail)
    assert ask(llava, PROMPTS[:1], ALIKE[:1]) == expected
    assert said(caplog) == ["compile: steps are recorded without Inductor, which failed: no compiler"]


def test_inside_of_inference_mode_and_outside_the_memory_is_the_same(recorded):
    """The engine asks in it, `generate` without."""
    llava = recorded()
    with torch.inference_mode():
        inside = ask(llava, PROMPTS[:1], ALIKE[:1])
    (cache,) = llava[1].graphs.caches.values()
    assert ask(llava, PROMPTS[:1], ALIKE[:1]) == inside
    assert list(llava[1].graphs.caches.values()) == [cache]


def test_threads_share_what_is_recorded(recorded):
    """Of prompts of one length one waits for the other; those of others go between."""
    llava = recorded()
    asked = [(PROMPTS[:1], ALIKE[:1]), (PROMPTS[:1], ALIKE[1:2]), (PROMPTS, IMAGES), (PROMPTS[2:], [])]
    alone = [ask(llava, *own) for own in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda own: ask(llava, *own), asked * 2))
    assert together == alone * 2


def test_both_names_of_the_option_mean_the_same(checkpoints):
    for name in ("compile", "compile_decoding"):
        parser = argparse.ArgumentParser()
        add_compile_argument(parser)
        assert parser.parse_args([f"--{name}"]).compile
        assert not parser.parse_args([]).compile
        assert model_options(argparse.Namespace(model_path="", **{name: True})).compile
        assert load(checkpoints(), **{name: True})[1].records
    model = load(checkpoints())[1]
    assert not model.records
    model.compile_decoding = True
    assert model.records is model.compile_decoding is True


def test_lengths_are_few_and_near():
    found = [padded_length(length, *PROMPT) for length in range(1, 4097)]
    assert [found[i - 1] for i in (1, 64, 65, 128, 129, 640, 641, 1025, 2944)] == [
        *(64, 64, 128, 128, 192, 640, 768, 1280, 3072)
    ]
    assert len(set(found)) == 20
    assert len({padded_length(length, *WHOLE) for length in range(1, 4097)}) == 8
