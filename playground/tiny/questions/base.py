"""A question with its answer, and what the functions that make questions share."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from playground.tiny.scenes import Scene, Thing


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Args:
        kind: the topic, such as "color".
        text: the question.
        answer: the right answer.
        options: all possible answers, where they can be listed; wrong options of multiple choice are drawn from them.
        structural, semantic: GQA's two types of the question.
    """

    kind: str
    text: str
    answer: str
    options: tuple[str, ...] = ()
    structural: str = "query"
    semantic: str = "attr"


Maker = Callable[[Scene, random.Random], Question | None]


def yes_no(kind: str, text: str, truth: bool, structural: str = "verify", semantic: str = "attr") -> Question:
    """A question with the answer yes or no."""
    return Question(kind, text, "Yes" if truth else "No", ("Yes", "No"), structural, semantic)


def draw_other(options, *excluded: str, rng: random.Random) -> str:
    """A random option, without those that are excluded."""
    return rng.choice([option for option in options if option not in excluded])


def reference(scene: Scene, thing: Thing) -> str:
    """The shortest name that refers to this object alone: with its colour only if another has the same shape."""
    same_shape = [other for other in scene.things if other.shape == thing.shape]
    return f"the {thing.shape}" if len(same_shape) == 1 else f"the {thing.name}"


def with_article(noun: str) -> str:
    """A noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def draw_two(scene: Scene, rng: random.Random) -> list[Thing] | None:
    """Two different objects in random order; None if the scene has only one."""
    return rng.sample(scene.things, 2) if len(scene.things) > 1 else None
