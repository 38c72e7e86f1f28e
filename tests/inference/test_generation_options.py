"""Options of `generate` in the engine and in sessions: each is served, or refused by name before anything runs."""

import pytest
from transformers import GenerationConfig

from llava.errors import InputError
from llava.inference import Engine, Session
from tests.conftest import generate_alone, picture

FIRST = picture(200, 150, 1)
GREEDY = {"do_sample": False, "max_new_tokens": 6}
REFUSED = [
    {"num_return_sequences": 2, "do_sample": True},
    {"num_return_sequences": 2, "num_beams": 3},
    {"num_beam_groups": 2, "num_beams": 2},
    {"return_dict_in_generate": True},
    {"output_scores": True},
    {"output_logits": True},
    {"output_hidden_states": True},
    {"output_attentions": True},
    {"use_cache": False},
    {"past_key_values": "a cache"},
    {"cache_implementation": "static"},
    {"max_length": 300},
    {"min_length": 3},
    {"streamer": print},
    {"guidance_scale": 2.0},
    {"negative_prompt_ids": [[1]]},
    {"encoder_repetition_penalty": 1.5},
    {"encoder_no_repeat_ngram_size": 2},
    {"prompt_lookup_num_tokens": 3},
    {"assistant_model": "another"},
    {"penalty_alpha": 0.5, "top_k": 4},
    {"dola_layers": "high"},
    {"custom_generate": "someone/else"},
    {"max_tokens": 5},
    {"attention_mask": None},
    {"generation_config": {"max_new_tokens": 3}},
]


@pytest.fixture
def defaults(loaded):
    """defaults(name=value) sets what the checkpoint's generation config says, for one test."""
    config = loaded()[1].generation_config
    before = dict(vars(config))
    yield lambda **values: config.update(**values)
    vars(config).clear()
    vars(config).update(before)


def doors(llava: tuple) -> dict:
    """What answers "What?" about a picture, by name."""
    engine = Engine(llava)
    return {
        "ask": lambda **options: engine.ask("What?", FIRST, **options),
        "answer": lambda **options: [said.text for said in engine.answer([("What?", FIRST)] * 2, **options)][1],
        "stream": lambda **options: "".join(engine.stream(engine.request("What?", FIRST), **options)).strip(),
        "session": lambda **options: Session(llava).ask("What?", [FIRST], **options),
        "pieces": lambda **options: "".join(Session(llava).stream("What?", [FIRST], **options)).strip(),
    }


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: "+".join(map(str, options)))
def test_what_changes_what_comes_back_is_refused_by_name(loaded, encoded, options):
    llava, name = loaded(), next(iter(options))
    crops = encoded(llava[1])
    for ask in doors(llava).values():
        with pytest.raises(InputError, match=name):
            ask(**GREEDY | options)
        if name != "attention_mask" and "custom" not in name and name in vars(GenerationConfig()):
            with pytest.raises(InputError, match=name):
                ask(generation_config=GenerationConfig(**GREEDY | options))
    assert crops == []


def test_a_session_is_as_it_was_after_an_option_that_is_refused(loaded):
    session = Session(loaded())
    session.ask("What?", [FIRST], **GREEDY)
    before = session.last
    with pytest.raises(InputError, match="num_return_sequences"):
        session.ask("Why?", **GREEDY, num_return_sequences=2)
    assert session.last is before and len(session.conversation.messages) == 2


def test_what_changes_nothing_is_taken(loaded):
    llava = loaded()
    nothing = {"num_return_sequences": 1, "use_cache": True, "output_scores": False, "streamer": None, "min_length": 0}
    for ask in doors(llava).values():
        assert ask(**GREEDY, **nothing) == ask(**GREEDY)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"repetition_penalty": 5.0}, {"suppress_tokens": [5, 9]}])
def test_options_are_served_in_a_generation_config_and_as_the_checkpoint_s(loaded, defaults, options):
    llava = loaded()
    engine = Engine(llava)
    prompt = engine.request("What?", FIRST).prompt
    expected = generate_alone(llava, prompt, [FIRST], **GREEDY | options)
    config = GenerationConfig(**GREEDY | options)
    assert generate_alone(llava, prompt, [FIRST], generation_config=config) == expected
    for ask in doors(llava).values():
        assert ask(generation_config=config) == expected
        shorter = ask(generation_config=config, max_new_tokens=2)
        assert expected.startswith(shorter) or "num_beams" in options
    defaults(**GREEDY | options)
    assert generate_alone(llava, prompt, [FIRST]) == expected
    for ask in doors(llava).values():
        assert ask() == expected


def test_a_checkpoint_that_asks_for_several_answers_is_refused_unless_the_call_says_one(loaded, defaults):
    llava = loaded()
    expected = Engine(llava).ask("What?", FIRST, **GREEDY, num_beams=3)
    defaults(num_return_sequences=2, num_beams=3)
    for ask in doors(llava).values():
        with pytest.raises(InputError, match=r"num_return_sequences 2 of the checkpoint's generation config"):
            ask(**GREEDY)
        assert ask(**GREEDY, num_return_sequences=1) == expected


def test_a_text_that_ends_an_answer_needs_no_tokenizer(loaded):
    llava = loaded()
    engine, options = Engine(llava), GREEDY | {"max_new_tokens": 20}
    prompt = engine.request("What?", FIRST).prompt
    whole = generate_alone(llava, prompt, [FIRST], **options)
    stop = whole[len(whole) // 2 :][:3].strip()
    expected = generate_alone(llava, prompt, [FIRST], **options, stop_strings=[stop], tokenizer=llava[0])
    assert len(expected) < len(whole)
    asked = doors(llava)
    with pytest.raises(InputError, match="stop_strings"):
        asked.pop("stream")(**options, stop_strings=[stop])
    for ask in asked.values():
        assert ask(**options, stop_strings=[stop]) == expected
