"""`compile`: whatever is asked, and by whom, answers are the uncompiled ones; what cannot be recorded is said."""

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, StoppingCriteria, StoppingCriteriaList
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llava.inference import Engine, Session
from llava.inference.streaming import Draw
from llava.pruning import Settings
from llava.pruning.kv_cache import CACHE, cache_in
from tests.conftest import IMAGE, inputs_of, picture
from tests.tape import said

PROMPTS = [f"A {IMAGE} dog?", f"{IMAGE}\nand a much longer question about {IMAGE} the two", "no picture"]
IMAGES = [picture(200, 150, 1), picture(90, 300, 2), picture(400, 120, 3)]
ALIKE = [picture(200, 150, seed) for seed in (1, 4, 5)]  # the same number of crops
LOGITS = {"do_sample": False, "max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}


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
