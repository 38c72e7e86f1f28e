"""A conversation: the answers are those to all of it at once, and neither pictures nor history are computed again."""

from itertools import pairwise

import pytest
import torch

from llava.errors import InputError
from llava.inference import Session
from llava.pruning import Settings
from tests.conftest import IMAGE, generate_alone, load, picture

GREEDY = {"do_sample": False, "max_new_tokens": 7}
FIRST, SECOND = picture(200, 150, 1), picture(90, 300, 2)
TURNS = [("What is it?", [FIRST]), ("Why?", []), (f"And {IMAGE} here?", [SECOND]), ("Are you sure about that?", [])]
FAMILIES = [("v1.5", "llama"), ("v1.6", "llama"), ("v1.5", "mistral"), ("v1.6", "mistral"), ("v1.6", "qwen")]


def asked_at_once(llava: tuple, session: Session, images: list, **options) -> str:
    """The answer to the prompt of the session's last turn, computed as a whole."""
    return generate_alone(llava, session.last.prompt, images, pruning=session.pruning, **GREEDY | options)


@pytest.mark.parametrize("budget", [None, 16])
@pytest.mark.parametrize(("version", "family"), FAMILIES)
def test_every_turn_is_answered_as_all_of_it_at_once(loaded, encoded, decoded, version, family, budget):
    llava = loaded(version, family)
    session, images, lengths = Session(llava, pruning=Settings(budget)), [], []
    crops, tokens = encoded(llava[1]), decoded(llava[1])
    for text, new in TURNS:
        images += new
        crops.clear()
        tokens.clear()
        said = session.ask(text, new, **GREEDY)
        assert len(crops) == len(new)
        assert tokens[0] == session.last.computed_tokens
        assert set(tokens[1:]) <= {1}
        lengths.append((session.last.prompt_tokens, session.last.computed_tokens))
        assert said == session.last.text == asked_at_once(llava, session, images)
    assert lengths[0][0] == lengths[0][1]
    for (before, _), (length, computed) in pairwise(lengths):
        assert computed <= length - before + 1  # where answer and template meet, a token may be another
    assert len(session.last.num_visual_tokens) == 2


def test_a_turn_may_change_how_it_is_decoded(loaded):
    llava = loaded()
    session, images = Session(llava), []
    for (text, new), options in zip(TURNS, [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 2.0}, {}]):
        images += new
        said = session.ask(text, new, **GREEDY | options)
        if "do_sample" not in options:
            assert said == asked_at_once(llava, session, images, **options)
    assert session.last.computed_tokens < session.last.prompt_tokens / 2


def test_beams_compute_the_history_again_but_no_picture(loaded, encoded):
    llava = loaded()
    session = Session(llava)
    crops = encoded(llava[1])
    for text, new in TURNS[:2]:
        said = list(session.stream(text, new, **GREEDY, num_beams=2))
        assert session.last.computed_tokens == session.last.prompt_tokens
        assert crops == [1]
        assert said == [session.last.text]
    assert said == [asked_at_once(llava, session, [FIRST], num_beams=2)]


@pytest.mark.parametrize("compile_decoding", [False, True])
def test_what_keeps_no_whole_cache_computes_the_history_again_but_no_picture(loaded, encoded, compile_decoding):
    llava = loaded()
    method = "vispruner" if compile_decoding else "fastv"
    session, images = Session(llava, pruning=Settings(16, pruning_method=method)), []
    llava[1].compile_decoding = compile_decoding
    try:
        for text, new in TURNS:
            images += new
            crops = encoded(llava[1])
            said = session.ask(text, new, **GREEDY)
            assert crops == [1] * len(new)
            assert session.last.computed_tokens == session.last.prompt_tokens
            assert said == asked_at_once(llava, session, images)
    finally:
        llava[1].compile_decoding = False


@pytest.mark.parametrize(("window", "whole"), [(160, [True] * 4), (250, [True, False, False, True])])
def test_a_window_that_slides_changes_no_answer(make_checkpoint, encoded, window, whole):
    """The prompts have 169, 198, 378 and 419 tokens: the cache has dropped some after the first, or after the third."""
    llava = load(make_checkpoint(language_model="mistral", sliding_window=window))
    session, images, computed = Session(llava), [], []
    for text, new in TURNS:
        images += new
        crops = encoded(llava[1])
        said = session.ask(text, new, **GREEDY)
        assert crops == [1] * len(new)
        assert said == asked_at_once(llava, session, images)
        computed.append(session.last.computed_tokens == session.last.prompt_tokens)
    assert computed == whole


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_fails_leaves_the_session_as_it_was(loaded, monkeypatch, stream, tmp_path):
    llava = loaded()
    session = Session(llava, pruning=Settings(16))

    def ask(text, images=()) -> str:
        return "".join(session.stream(text, images, **GREEDY)) if stream else session.ask(text, images, **GREEDY)

    with pytest.raises(InputError, match=r"0 image\(s\) for 1 <image> placeholder\(s\)"):
        ask(f"What is {IMAGE}?")
    ask("What is it?", [FIRST])
    before = session.last
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    for text, images, named in [
        (f"What is {IMAGE}?", [], r"0 image\(s\) for 1"),
        (f"{IMAGE} or {IMAGE}?", [SECOND], r"1 image\(s\) for 2"),
        ("And this?", [bad], "bad.png"),
        ("word " * 5000, [SECOND], "longer than the context"),
        ("", [], "the message is empty"),
    ]:
        with pytest.raises(InputError, match=named):
            ask(text, images)
        assert session.last is before
        assert session.conversation.messages[-1][1] == before.text
    assert "Why?" in ask_and_check(llava, session, ask, "Why?")
    assert session.last.computed_tokens < 40  # the cache was not lost

    layer = llava[1].model.layers[1]
    hook = layer.register_forward_pre_hook(lambda *_: out_of_memory())
    with pytest.raises(InputError, match="the conversation alone takes too much memory"):
        ask("And this?", [SECOND])
    hook.remove()
    ask_and_check(llava, session, ask, "Is that all?")
    assert session.last.prompt.count(IMAGE) == 1
    ask_and_check(llava, session, ask, "And then?")
    assert session.last.computed_tokens < 40


def out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def ask_and_check(llava: tuple, session: Session, ask, text: str) -> str:
    """Ask about the first picture; returns the prompt."""
    assert ask(text).strip() == asked_at_once(llava, session, [FIRST])
    return session.last.prompt


def test_an_answer_that_is_left_early_is_dropped(loaded):
    llava = loaded()
    session = Session(llava)
    session.ask("What is it?", [FIRST], **GREEDY)
    stream = session.stream("Why?", do_sample=False, max_new_tokens=400, eos_token_id=None)
    next(stream)
    stream.close()
    assert "Why?" not in str(session.conversation.messages)
    assert session.ask("Why?", **GREEDY) == asked_at_once(llava, session, [FIRST])
    assert session.last.computed_tokens == 1  # the whole prompt is in the cache: its last token gives the first logits
    assert session.ask("Where?", **GREEDY) == asked_at_once(llava, session, [FIRST])


def test_an_answer_with_the_image_token_in_it_stands_for_no_image(loaded):
    """The model may write `<image>`, letter by letter."""
    llava = loaded()
    session = Session(llava)
    ids = llava[0]("a <image> of", add_special_tokens=False).input_ids
    forced = {"prefix_allowed_tokens_fn": lambda _, said: [ids[len(said)]], "max_new_tokens": len(ids)}
    assert session.ask("What?", [FIRST], **GREEDY | forced) == "a <image> of"
    assert session.ask("Why?", **GREEDY) == asked_at_once(llava, session, [FIRST])
    assert session.last.prompt.count(IMAGE) == 1


@pytest.mark.parametrize(("version", "family"), FAMILIES)
def test_a_conversation_goes_on_after_an_empty_answer(loaded, version, family):
    llava = loaded(version, family)
    session, end = Session(llava, pruning=Settings(16)), llava[0].eos_token_id
    nothing = {"prefix_allowed_tokens_fn": lambda *_: [end]}
    assert session.ask("What?", [FIRST], **GREEDY | nothing) == ""
    assert session.ask("Why?", **GREEDY) == asked_at_once(llava, session, [FIRST])
    assert session.last.computed_tokens < 40
    expected = session.template.conversation()
    for i, text in enumerate([f"{IMAGE}\nWhat?", "SAID", "Why?", None]):
        expected.append_message(expected.roles[i % 2], text)
    assert session.last.prompt == expected.get_prompt().replace("SAID", "")
    assert list(session.stream("And?", **GREEDY | nothing)) == []
    assert session.ask("So?", **GREEDY) == asked_at_once(llava, session, [FIRST])


def test_sessions_of_one_model_do_not_disturb_each_other(loaded):
    llava = loaded()
    first, second = Session(llava, pruning=Settings(16)), Session(llava, pruning=Settings(48))
    for i, (text, new) in enumerate(TURNS):
        seen = [image for _, images in TURNS[: i + 1] for image in images]
        said = [session.ask(text, new, **GREEDY) for session in (first, second)]
        assert said == [asked_at_once(llava, session, seen) for session in (first, second)]
