"""Questions about where objects are, in the picture and from each other."""

import random

from playground.tiny.questions.base import Question, draw_two, reference, yes_no
from playground.tiny.scenes import PLACES, SHAPES, SIZE, Scene, Thing

CLEAR = 22  # pixels between two centres from which on a direction is unmistakable
PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}


def where(scene: Scene, rng: random.Random) -> Question:
    """In which of the nine places is an object?"""
    thing = rng.choice(scene.things)
    return Question("location", f"Where is {reference(scene, thing)}?", thing.place, PLACES, semantic="rel")


def which_side(scene: Scene, rng: random.Random) -> Question | None:
    """On which half of the picture is an object? Asked only if it is clearly on one."""
    thing = rng.choice(scene.things)
    first, second, position = rng.choice((("left", "right", thing.x), ("top", "bottom", thing.y)))
    if abs(position - SIZE / 2) < CLEAR / 2:
        return None
    text = f"Is {reference(scene, thing)} on the {first} or on the {second} of the image?"
    return Question("location", text, first if position < SIZE / 2 else second, (), "choose", "rel")


def directions(first: Thing, second: Thing) -> set[str]:
    """In which directions the first object lies from the second: of left, right, above, below those that are clear."""
    found = {"left" if first.x < second.x else "right"} if abs(first.x - second.x) > CLEAR else set()
    return found | ({"above" if first.y < second.y else "below"} if abs(first.y - second.y) > CLEAR else set())


def is_related(scene: Scene, rng: random.Random) -> Question | None:
    """Does an object lie in this direction from another? Half of the answers are yes."""
    pair = draw_two(scene, rng)
    if pair is None or not (clear := sorted(directions(*pair))):
        return None
    truth, direction = rng.random() < 0.5, rng.choice(clear)
    phrase = PHRASES[direction if truth else OPPOSITES[direction]]
    text = f"Is {reference(scene, pair[0])} {phrase} {reference(scene, pair[1])}?"
    return yes_no("relation", text, truth, semantic="rel")


def which_relation(scene: Scene, rng: random.Random) -> Question | None:
    """In which of two opposite directions does an object lie from another?"""
    pair = draw_two(scene, rng)
    if pair is None or not (clear := sorted(directions(*pair))):
        return None
    direction = rng.choice(clear)
    asked = sorted((direction, OPPOSITES[direction]), key=list(PHRASES).index)
    words = ("to the left or to the right of", "above or below")["above" in asked]
    text = f"Is {reference(scene, pair[0])} {words} {reference(scene, pair[1])}?"
    return Question("relation", text, direction, (), "choose", "rel")


def what_is_beside(scene: Scene, rng: random.Random) -> Question | None:
    """What is on one side of an object? Asked only if one object is clearly there and all others are clearly not."""
    thing, direction = rng.choice(scene.things), rng.choice(list(PHRASES))
    there = [t for t in scene.things if t is not thing and direction in directions(t, thing)]
    clearly_not = [t for t in scene.things if t is not thing and OPPOSITES[direction] in directions(t, thing)]
    if len(there) != 1 or len(there) + len(clearly_not) != len(scene.things) - 1:
        return None
    text = f"What shape is {PHRASES[direction]} {reference(scene, thing)}?"
    return Question("relation", text, there[0].shape, tuple(SHAPES), semantic="rel")
