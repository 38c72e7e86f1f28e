"""Questions that need more than the picture: common knowledge, and questions that cannot be answered."""

import random

from playground.tiny.questions.base import Question, draw_other, yes_no
from playground.tiny.scenes import COLORS, SHAPES, WORDS, Scene

THINGS_OF_COLOR = {
    "red": "a tomato",
    "green": "grass",
    "blue": "the sky",
    "yellow": "a lemon",
    "orange": "a carrot",
    "purple": "a plum",
    "black": "coal",
    "brown": "chocolate",
}
SIDES = {"triangle": "three sides", "square": "four equal sides", "circle": "no corners", "star": "five points"}


def has_color_of(scene: Scene, rng: random.Random) -> Question:
    """Is there an object in the colour of a familiar thing? Half of the answers are yes."""
    present = sorted({thing.color for thing in scene.things})
    color = rng.choice(present) if rng.random() < 0.5 else draw_other(COLORS, *present, rng=rng)
    text = f"Is there a shape in the color of {THINGS_OF_COLOR[color]} in the image?"
    return yes_no("commonsense", text, color in present)


def unanswerable(scene: Scene, rng: random.Random) -> Question:
    """A question about an object, or a sign, that the scene does not have."""
    absent = [shape for shape in SHAPES if all(thing.shape != shape for thing in scene.things)]
    shape = rng.choice(absent)
    texts = [f"What color is the {shape}?", f"Where is the {shape}?"]
    if scene.sign is None:
        texts += ["What does the sign say?", "What color is the sign?"] * 2
    return Question("unanswerable", rng.choice(texts), "unanswerable")


def fact(scene: Scene | None, rng: random.Random) -> Question:
    """A question that needs no picture."""
    kind = rng.choice(("sides", "color", "translation"))
    if kind == "sides":
        shape = rng.choice(list(SIDES))
        return Question("fact", f"Which shape has {SIDES[shape]}?", shape, (*SIDES, "heart", "arrow"))
    if kind == "color":
        color = rng.choice(list(THINGS_OF_COLOR))
        return Question("fact", f"What is the color of {THINGS_OF_COLOR[color]}?", color, tuple(COLORS))
    word = rng.choice(list(WORDS))
    return Question("fact", f"What is the Spanish word for {word}?", WORDS[word], tuple(WORDS.values()))
