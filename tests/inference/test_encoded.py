"""An image that is encoded once: its visual tokens are those of a new encoding, and a conversation may change T."""

import pytest
import torch

from llava.errors import InputError
from llava.inference import Session
from llava.inference.images import choose_tokens, encode_images
from llava.model import encode as door
from llava.pruning import Settings
from tests.conftest import IMAGE, generate_alone, picture

GREEDY = {"do_sample": False, "max_new_tokens": 7}
ASKED = "Is there a dog?"
SETTINGS = [
    Settings(),
    Settings(16),
    Settings(16, 0.0),
    Settings(8, pruning_method="divprune"),
    Settings(16, pruning_method="visionzip"),
    Settings(8, pruning_method="random"),
    Settings(8, pruning_method="mmtok"),
]


@pytest.mark.parametrize(("version", "family"), [("v1.5", "llama"), ("v1.6", "mistral")])
def test_its_visual_tokens_are_those_of_a_new_encoding(loaded, encoded, version, family):
    llava = loaded(version, family)
    for image in (picture(200, 150), picture(90, 300), picture(168, 168)):
        (seen,), crops = encode_images(llava, [image], "it"), encoded(llava[1])
        chosen = [choose_tokens(llava[1], [seen], settings, [ASKED])[0] for settings in SETTINGS]
        assert not crops
        for settings, tokens in zip(SETTINGS, chosen):
            again = encode_images(llava, [image], "it")
            assert torch.equal(tokens, choose_tokens(llava[1], again, settings, [ASKED])[0])


def test_positions_alone_choose_nothing_anew(loaded, monkeypatch):
    llava, asked = loaded(), []
    (seen,) = encode_images(llava, [picture(200, 150)], "it")
    select = door.select
    monkeypatch.setattr(door, "select", lambda views, settings: asked.append(settings) or select(views, settings))
    same = [Settings(16, positions=positions) for positions in ("renumbered", "original", "after")]
    kept = [choose_tokens(llava[1], [seen], settings)[0] for settings in same]
    assert asked == same[:1]
    assert torch.equal(kept[0], kept[1].tokens)
    assert torch.equal(kept[0], kept[2].tokens)
    assert not torch.equal(kept[1].places, kept[2].places)
    for settings in (Settings(8), *same):  # only what was chosen last is kept
        choose_tokens(llava[1], [seen], settings)
    assert asked == [same[0], Settings(8), same[0]]


def test_a_message_may_bring_it_among_others(loaded, encoded):
    llava = loaded("v1.6")
    images = [picture(seed=1), picture(90, 300, 2), picture(300, 90, 3)]
    apart = Session(llava, pruning=Settings(16))
    said = apart.ask(f"{IMAGE}, {IMAGE}, {IMAGE}: what is it?", images, **GREEDY)
    (seen,) = encode_images(llava, [images[1]], "it")
    crops, session = encoded(llava[1]), Session(llava, pruning=Settings(16))
    assert session.ask(f"{IMAGE}, {IMAGE}, {IMAGE}: what is it?", [images[0], seen, images[2]], **GREEDY) == said
    assert session.last == apart.last
    assert len(crops) == 2


def test_a_fork_goes_on_with_other_settings_and_encodes_nothing(loaded, encoded):
    llava, image = loaded("v1.6"), picture(200, 150, 1)
    (seen,) = encode_images(llava, [image], "it")
    crops, session = encoded(llava[1]), Session(llava, pruning=Settings(16))
    session.ask("What is it?", [seen], **GREEDY)
    for settings in (Settings(48), Settings(), Settings(16, pruning_method="fastv")):
        fork = session.fork(settings)
        said = fork.ask("Why?", **GREEDY)
        assert not crops
        assert said == generate_alone(llava, fork.last.prompt, [image], pruning=settings, **GREEDY)
        assert fork.last.computed_tokens == fork.last.prompt_tokens
        assert fork.last.num_visual_tokens == (len(seen.tokens(llava[1], settings)),)
        crops.clear()
    assert session.last.prompt.count("USER") == 1
    said = session.ask("Why?", **GREEDY)
    assert said == generate_alone(llava, session.last.prompt, [image], pruning=Settings(16), **GREEDY)
    assert session.last.computed_tokens < 40  # its cache was left alone


def test_a_cache_that_is_dropped_changes_no_answer(loaded, encoded):
    llava, image = loaded(), picture(200, 150, 1)
    session = Session(llava, pruning=Settings(16))
    session.ask("What is it?", [image], **GREEDY)
    crops = encoded(llava[1])
    session.drop_cache()
    said = session.ask("Why?", **GREEDY)
    assert not crops
    assert session.last.computed_tokens == session.last.prompt_tokens
    assert said == generate_alone(llava, session.last.prompt, [image], pruning=Settings(16), **GREEDY)


def test_the_tokens_of_an_answer_are_counted(loaded):
    session = Session(loaded())
    session.ask("What is it?", [picture()], do_sample=False, min_new_tokens=5, max_new_tokens=5)
    assert session.last.answer_tokens == 5


def test_what_cannot_be_encoded_is_an_error_that_names_it(loaded, tmp_path):
    file = tmp_path / "bad.png"
    file.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"bad\.png"):
        encode_images(loaded(), [file], "it")
    with pytest.raises(InputError, match="of your picture"):
        encode_images(loaded(), [b"no picture"], "your picture")
