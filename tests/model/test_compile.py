"""`compile`: what is recorded gives the same answers, whatever is asked, and what cannot be is said.

Where there is no GPU, `tests.tape` records: the same operations on the same memory, without the Python around them.
"""

import argparse
import copy
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, StoppingCriteria, StoppingCriteriaList
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llava.inference import Engine, Session
from llava.inference.options import add_compile_argument, model_options
from llava.inference.streaming import Draw
from llava.model.fixed_cache import PROMPT, WHOLE, padded_length
from llava.pruning import METHOD_NAMES, Settings
from llava.pruning.kv_cache import CACHE, cache_in
from tests import tape
from tests.conftest import IMAGE, ask, inputs_of, load, picture

PROMPTS = [f"A {IMAGE} dog?", f"{IMAGE}\nand a much longer question about {IMAGE} the two", "no picture"]
IMAGES = [picture(200, 150, 1), picture(90, 300, 2), picture(400, 120, 3)]
ALIKE = [picture(200, 150, seed) for seed in (1, 4, 5)]  # the same number of crops
LOGITS = {"do_sample": False, "max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
UNRECORDED = {"hiprune", "holov", "pool", "prunesid", "random", "uniform", "cdpruner", "mmtok", "dart_embeds"}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def recorded(loaded, monkeypatch):
    """recorded("v1.5", "llama"): a loaded checkpoint that records on the tape as long as the test runs."""

    def get(*checkpoint: str) -> tuple:
        llava = loaded(*checkpoint)
        tape.use_in(monkeypatch, llava[1])
        return llava

    return get


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "llava.model.graphs"]


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "temperature": 1.5},
        {"do_sample": True, "top_p": 0.8, "repetition_penalty": 1.3},
        {"min_new_tokens": 6, "no_repeat_ngram_size": 2},
        {"stop_strings": ["e", "4"]},
        {"return_dict_in_generate": True, "output_scores": True, "do_sample": True},
    ],
    ids=str,
)
def test_options_of_generation_do_what_they_do(recorded, options):
    llava = recorded()
    model, answers = llava[1], []
    ids, given = inputs_of(llava, PROMPTS, IMAGES)
    for records in (False, True):
        model.records = records
        torch.manual_seed(7)
        more = {"tokenizer": llava[0], "max_new_tokens": 12} | options
        answers.append(model.generate(ids, **given, pruning=Settings(16), **more))
    plain, found = answers
    if "output_scores" in options:
        torch.testing.assert_close(torch.stack(found.scores), torch.stack(plain.scores), rtol=1e-5, atol=2e-6)
        plain, found = plain.sequences, found.sequences
    assert found.tolist() == plain.tolist()


def test_answers_end_one_by_one_and_are_padded(recorded):
    """With ends that the rows reach after different numbers of tokens."""
    llava = recorded()
    model = llava[1]
    ids, given = inputs_of(llava, PROMPTS, IMAGES)
    options = {"do_sample": False, "max_new_tokens": 12, "pruning": Settings(16)}
    model.records = False
    whole = model.generate(ids, **given, **options)
    ends = [int(whole[0, 2]), int(whole[2, 5])]
    expected = model.generate(ids, **given, **options, eos_token_id=ends, pad_token_id=3)
    model.records = True
    assert model.generate(ids, **given, **options, eos_token_id=ends, pad_token_id=3).tolist() == expected.tolist()
    assert (expected == 3).any()


@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_a_cache_that_is_returned_is_the_caller_s_own(recorded, positions):
    """It goes on as the plain one does, also after the next answer."""
    llava = recorded()
    model, pruning, logits = llava[1], Settings(16, positions=positions), []
    ids, given = inputs_of(llava, PROMPTS[:1], ALIKE[:1])
    for records in (False, True):
        model.records = records
        output = model.generate(ids, **given, pruning=pruning, **LOGITS)
        cache = cache_in(output)
        model.generate(ids, **inputs_of(llava, PROMPTS[:1], ALIKE[1:2])[1], pruning=pruning, **LOGITS)
        token = output.sequences[:, -1:]
        logits.append(model(torch.cat([token, token], dim=1), pruning=pruning, **{CACHE: cache}).logits)
    torch.testing.assert_close(*logits, rtol=1e-5, atol=2e-6)


class Seen(StoppingCriteria):
    """A user's, which keeps what it was asked about."""

    def __init__(self) -> None:
        self.lengths = []

    def __call__(self, input_ids, scores, **kwargs):
        self.lengths.append(input_ids.shape[1])
        return torch.full((len(input_ids),), len(self.lengths) == 4)


def test_the_engine_streams_shares_and_converses(recorded):
    llava = recorded()
    model, options = llava[1], {"do_sample": False, "max_new_tokens": 9}
    model.pruning = Settings(16)
    engine = Engine(llava, batch_size=3)
    alike = [("What?", ALIKE[0]), ("And in this one, which is another?", ALIKE[1]), ("Why?", ALIKE[2])]
    shared = [("What?", ALIKE[0]), ("How many?", ALIKE[0]), ("Why?", ALIKE[0])]
    answers = []
    for records in (False, True):
        model.records, seen = records, Seen()
        session = Session(llava)
        found = [said.text for asked in (alike, shared) for said in engine.answer(asked, **options)]
        found += ["".join(engine.stream(engine.request(*alike[1]), **options))]
        drawn = {"logits_processor": [Draw(0.9, seed=5)]}
        found += ["".join(engine.stream(engine.request(*alike[1]), **options, **drawn))]
        found += [session.ask("What?", [ALIKE[0]], **options), session.ask("Why?", **options)]
        found += [engine.ask(*alike[0], **options, stopping_criteria=StoppingCriteriaList([seen]))]
        assert seen.lengths == [1, 2, 3, 4]
        answers.append(found)
    assert answers[0] == answers[1]


HINDRANCES = {
    "fastv drops tokens inside the language model": {"pruning_method": "fastv", "visual_token_num": 16},
    "the option num_beams": {"num_beams": 2},
    "the option num_return_sequences": {"num_return_sequences": 2, "do_sample": True},
    "the option use_cache": {"use_cache": False},
    "the option cache_implementation": {"cache_implementation": "static"},
    "the option output_hidden_states": {"output_hidden_states": True, "return_dict_in_generate": True},
    "beyond the context": {"max_new_tokens": 5000, "stopping_criteria": [Seen]},
    "of 100 tokens": {"sliding_window": 100},
    "quantized weights": {"quantization_config": {}},
    "the attention kernel tests": {"_attn_implementation": "tests"},
    "layers on 0, 1": {"hf_device_map": {"a": 0, "b": 1}},
}


@pytest.mark.parametrize("why", HINDRANCES)
def test_what_cannot_be_recorded_is_said_once_and_answered(recorded, caplog, why, monkeypatch):
    llava = recorded()
    model, options = llava[1], {"do_sample": False, "max_new_tokens": 4} | HINDRANCES[why]
    AttentionInterface.register("tests", sdpa_attention_forward)
    AttentionMaskInterface.register("tests", sdpa_mask)
    for name in ("sliding_window", "quantization_config", "_attn_implementation", "hf_device_map"):
        if name in options:
            home = model if name == "hf_device_map" else model.config
            monkeypatch.setattr(home, name, options.pop(name), raising=False)
    ids, given = inputs_of(llava, PROMPTS[:1], ALIKE[:1])
    for _ in range(2):
        if "stopping_criteria" in options:
            options["stopping_criteria"] = StoppingCriteriaList([Seen()])
        model.generate(ids, **given, **options)
    (message,) = said(caplog)
    assert message.startswith("compile: answers run uncompiled: ")
    assert message.endswith(why)
