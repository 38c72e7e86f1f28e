"""The order in which the tiny language model learns: lists, the mixture, one drill after another, the mixture again."""

import random

from llava.train.records import Record
from playground.tiny.data import DRILLS, Turns, drill_turns, list_turns, record
from playground.tiny.scenes import Scene, make_scene

# Steps of lists, of the mixture, of each drill, and of the mixture again.
LISTS, FIRST_MIX, DRILL, LAST_MIX = 300, 100, 60, 200
STEPS = LISTS + FIRST_MIX + len(DRILLS) * DRILL + LAST_MIX


def lessons(mixed: list[Record], batch_size: int) -> list[Record]:
    """The records in the order of training: as many as `mixed`, about the same scenes."""
    return [_lesson(i // batch_size, i, row) for i, row in enumerate(mixed)]


def _lesson(step: int, index: int, mixed: Record) -> Record:
    """The record number `index`, in a step: a list, a drill, or the record of the mixture itself."""
    if mixed.image is None:
        return mixed
    scene = make_scene(int(mixed.image.stem))
    rng = random.Random(f"lesson {scene.seed}")
    if step < LISTS:
        # Some of the conversations that come later, so that their form is not new then.
        return mixed if index % 6 == 0 else _replace_turns(scene, mixed, list_turns(scene, rng))
    drill = (step - LISTS - FIRST_MIX) // DRILL
    if 0 <= drill < len(DRILLS) and index % 2:
        return _replace_turns(scene, mixed, drill_turns(scene, rng, drill))
    return mixed


def _replace_turns(scene: Scene, mixed: Record, turns: Turns) -> Record:
    messages = record(scene, turns)["conversations"]
    texts = [message["value"] for message in messages]
    return Record(mixed.name, mixed.image, tuple(zip(texts[::2], texts[1::2])))
