"""What a user meets first: three lines of Python, and one command."""

import subprocess
import sys

import pytest
import torch

import llava
from llava import Engine, Settings, __main__
from llava.errors import InputError
from llava.inference import make_request
from tests.conftest import IMAGE, generate_alone, load, picture

GREEDY = {"do_sample": False, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def engine(checkpoints):
    return Engine.from_pretrained(checkpoints(), visual_token_num=16, device="cpu")


def test_an_engine_asks_in_the_published_template_with_its_settings(engine):
    loaded, image = engine.loaded, picture()
    assert engine.model.pruning == Settings(16)
    for settings in ({}, {"visual_token_num": 8}, {"pruning_method": "mmtok"}):
        pruning = Settings(**{"visual_token_num": 16} | settings)
        prompt = make_request("What is it?", [image], "vicuna_v1", loaded.model.config).prompt
        expected = generate_alone(loaded, prompt, [image], pruning=pruning, **GREEDY)
        assert engine.ask("What is it?", image, **settings, **GREEDY) == expected
        assert engine.ask("What is it?", [image], **settings, **GREEDY) == expected
    assert engine.model.pruning == Settings(16)


def test_it_answers_lists_and_holds_conversations(engine):
    images = [picture(seed=1), picture(90, 300, 2)]
    asked = [("What?", images[0]), (f"Is {IMAGE} like {IMAGE}?", images), ("Hello!", [])]
    said = list(engine.answer(asked, **GREEDY))
    assert [completion.num_visual_tokens for completion in said] == [(16,), (16, 16), ()]
    assert [completion.text for completion in said] == [engine.ask(*one, **GREEDY) for one in asked]
    session = engine.session(visual_token_num=8)
    assert session.ask("What?", [images[0]], **GREEDY) == engine.ask("What?", images[0], visual_token_num=8, **GREEDY)
    assert session.last.num_visual_tokens == (8,)


def test_what_cannot_be_is_named(engine, checkpoints):
    with pytest.raises(InputError, match="no_such_file"):
        engine.ask("What?", "no_such_file.png")
    with pytest.raises(ValueError, match="visual_token_num"):
        engine.ask("What?", picture(), visual_token_num=0)
    with pytest.raises(InputError, match="placeholder"):
        engine.ask(f"{IMAGE} {IMAGE}", picture())
    with pytest.raises(TypeError, match="visual_tokens"):
        Engine.from_pretrained(checkpoints(), visual_tokens=16)
    with pytest.raises(InputError, match="no such checkpoint folder"):
        Engine.from_pretrained("nowhere")


def test_a_model_alone_and_upstream_s_four_are_taken_too(checkpoints):
    loaded = load(checkpoints())
    expected = Engine(loaded).ask("What?", picture(), **GREEDY)
    assert Engine(tuple(loaded)).ask("What?", picture(), **GREEDY) == expected
    model = type(loaded.model).from_pretrained(checkpoints(), dtype=torch.float32)
    assert Engine(model).ask("What?", picture(), **GREEDY) == expected
    tokenizer, model, image_processor, context_len = loaded
    assert (tokenizer, model, image_processor, context_len) == (
        loaded.tokenizer,
        loaded.model,
        loaded.image_processor,
        loaded.context_len,
    )


def test_names_are_given_on_first_use():
    for name in llava.__all__:
        assert getattr(llava, name).__name__
    with pytest.raises(AttributeError, match="Enginee"):
        _ = llava.Enginee
    code = "import sys, llava, llava.__main__; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_command_lists_its_commands_and_refuses_others(call):
    code, out, _ = call(__main__, "--help")
    assert code == 0
    for name in __main__.COMMANDS:
        assert f"\n  {name} " in out
        code, help_text, _ = call(__main__, name, "--help")
        assert (code, help_text.startswith(f"usage: llava {name} ")) == (0, True)
    code, out, error = call(__main__, "aks")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "'aks'" in error


def test_its_ask_is_in_the_published_template_and_upstream_s_in_its_own(call, checkpoints, tmp_path):
    picture().save(tmp_path / "a.png")
    options = ["--model-path", checkpoints(), "--image-file", tmp_path / "a.png", "--query", "What is it?"]
    options += ["--device", "cpu", "--temperature", "0", "--max_new_tokens", "6", "--visual_token_num", "16"]
    engine = Engine.from_pretrained(checkpoints(), visual_token_num=16, device="cpu")
    prompt = engine.loaded.find_template(as_upstream=True).prompt(f"{IMAGE}\nWhat is it?")
    as_upstream = generate_alone(engine.loaded, prompt, [picture()], **GREEDY)
    assert call(__main__, "ask", *options)[1].strip() == engine.ask("What is it?", picture(), **GREEDY)
    from llava.eval import run_llava

    assert call(run_llava, *options)[1].strip() == as_upstream
