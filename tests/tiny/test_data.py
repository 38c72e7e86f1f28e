"""What the tiny model learns from: lists that are true, questions before it that need nothing left out."""

import random
from collections import Counter
from pathlib import Path

import pytest

from llava.train.records import Record
from playground.tiny.data import list_turns, lookup_turns, record, short_answer
from playground.tiny.language_model.lessons import DRILL, FIRST_MIX, LISTS, STEPS, lessons
from playground.tiny.language_model.model import make_llama, make_tokenizer
from playground.tiny.language_model.training import Conversations
from playground.tiny.patches import words_of_patches
from playground.tiny.questions import Question
from playground.tiny.scenes import training_scenes

SCENES = list(training_scenes(40))


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.seed))
def test_lists_say_what_is_there_and_nothing_else(scene):
    turns = list_turns(scene, random.Random(1))
    assert turns == list_turns(scene, random.Random(1))
    there = Counter(getattr(thing, kind) for thing in scene.things for kind in ("shape", "color"))
    there.update([scene.sign.word] if scene.sign is not None else [])
    lists = Counter()
    for request, answer in turns:
        entries = answer.split("; ")
        if request in ("List which are there.", "List how many are there."):
            lists[request] += 1
            for name, said in (entry.split() for entry in entries):
                number = there[name]
                assert said == (str(number) if "how many" in request else ("yes" if number else "no"))
        elif request.startswith("List "):
            lists["objects"] += 1
            order = request.removeprefix("List ").rstrip(".").split(", ")
            wanted = [" ".join(getattr(thing, name) for name in order) for thing in scene.things]
            if scene.sign is not None:
                sign = {"shape": "sign", "color": scene.sign.color, "size": scene.sign.word, "place": scene.sign.place}
                wanted.append(" ".join(sign[name] for name in order))
            assert sorted(entries) == sorted(wanted)
    assert lists == {"objects": 3, "List which are there.": 1, "List how many are there.": 1}


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.seed))
def test_no_question_follows_a_list_that_would_answer_it(scene):
    turns = lookup_turns(scene, random.Random(1))
    assert len(turns) == 7
    assert not any("List" in request or "Describe" in request or "What is in" in request for request, _ in turns[:-1])


def test_drills_come_after_lists_and_the_mixture_is_never_away():
    mixed = [
        Record(f"{scene.seed:08d}", Path(f"{scene.seed:08d}.jpg"), (("<image>\nWhich?", "none"),))
        for scene in training_scenes(2 * STEPS)
    ]
    first = [row.turns[0][0] for row in lessons(mixed, 2)]
    is_mixed = ["Which?" in text for text in first]
    assert not any("List" in text for text in first[2 * LISTS :])
    assert sum("List" in text for text in first[: 2 * LISTS]) == 2 * LISTS - is_mixed[: 2 * LISTS].count(True)
    assert all(any(is_mixed[i : i + 6]) for i in range(0, len(mixed), 6))
    drill = 2 * (LISTS + FIRST_MIX)
    assert is_mixed[drill : drill + 2 * DRILL].count(True) == DRILL
    assert all(is_mixed[2 * (STEPS - 100) :])


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
