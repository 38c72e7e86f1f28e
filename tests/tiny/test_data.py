"""What the tiny model learns from: lists that are true, questions before it that need nothing left out."""

import random

import pytest

from llava.train.records import Record
from scripts.tiny.data import lookup_turns, record, short_answer
from scripts.tiny.language_model import Conversations, make_llama, make_tokenizer
from scripts.tiny.questions import Question
from scripts.tiny.scenes import SHAPES, training_scenes, words_of_patches

SCENES = list(training_scenes(40))


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.seed))
def test_lists_say_what_is_there_and_nothing_else(scene):
    turns = lookup_turns(scene, random.Random(1))
    assert turns == lookup_turns(scene, random.Random(1))
    objects, shapes = 0, 0
    for request, answer in turns:
        entries = answer.split("; ")
        if request.startswith("List which") or request.startswith("List how"):
            shapes += 1
            for shape, said in (entry.split() for entry in entries):
                number = sum(thing.shape == shape for thing in scene.things)
                assert said == (str(number) if "how many" in request else ("yes" if number else "no"))
            assert {entry.split()[0] for entry in entries} <= set(SHAPES)
        elif request.startswith("List "):
            objects += 1
            order = request.removeprefix("List ").rstrip(".").split(", ")
            wanted = [" ".join(getattr(thing, name) for name in order) for thing in scene.things]
            if scene.sign is not None:
                sign = {"shape": "sign", "color": scene.sign.color, "size": scene.sign.word, "place": scene.sign.place}
                wanted.append(" ".join(sign[name] for name in order))
            assert sorted(entries) == sorted(wanted)
    assert (objects, shapes) == (3, 2)


def test_only_yes_and_no_have_capitals():
    assert [short_answer(Question("", "", text)) for text in ("yes", "No", "red", "top left")] == [
        *("Yes", "No", "red", "top left")
    ]


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    records = []
    for scene in SCENES:
        row = record(scene, lookup_turns(scene, random.Random(scene.seed)))
        texts = [message["value"] for message in row["conversations"]]
        records.append(Record(row["id"], folder / row["image"], tuple(zip(texts[::2], texts[1::2]))))
    records.append(Record("text", None, (("Which?", "none"),)))
    return Conversations(records, make_tokenizer(records, folder))


def test_every_object_is_among_the_patches_that_the_language_model_sees(conversations):
    for i, scene in enumerate(SCENES):
        shown = [tuple(patch) for patch in conversations[i]["patches"]]
        words = [tuple(conversations.tokenizer(text).input_ids[1:]) for text in words_of_patches(scene)]
        assert set(shown) == set(words)
        assert len(shown) < len(words)
        remaining = iter(words)
        assert all(patch in remaining for patch in shown)  # in the order of the picture
    assert conversations[len(SCENES)]["patches"] == []


def test_the_output_layer_begins_as_the_embeddings():
    model = make_llama(300)
    assert (model.lm_head.weight / 0.05).allclose(model.get_input_embeddings().weight)
    assert not model.config.tie_word_embeddings
