"""Questions about which objects a scene has, how many, and their shape, colour and size."""

import random

from playground.tiny.questions.base import Question, draw_other, draw_two, reference, with_article, yes_no
from playground.tiny.scenes import BACKGROUNDS, COLORS, SHAPES, Scene

NUMBERS = ("0", "1", "2", "3", "4", "5")


# --- existence ---


def has_shape(scene: Scene, rng: random.Random, shape: str | None = None) -> Question:
    """Is there an object of this shape? Without `shape` one is drawn, and half of the answers are yes."""
    present = sorted({thing.shape for thing in scene.things})
    if shape is None:
        shape = rng.choice(present) if rng.random() < 0.5 else draw_other(SHAPES, *present, rng=rng)
    return yes_no("existence", f"Is there {with_article(shape)} in the image?", shape in present, semantic="obj")


def has_thing(scene: Scene, rng: random.Random) -> Question:
    """Is there an object of this shape and colour? Half of the questions change the shape or the colour of one."""
    thing = rng.choice(scene.things)
    shape, color = thing.shape, thing.color
    draw = rng.random()
    if draw < 0.25:
        shape = draw_other(SHAPES, shape, rng=rng)
    elif draw < 0.5:
        color = draw_other(COLORS, color, rng=rng)
    truth = any((t.shape, t.color) == (shape, color) for t in scene.things)
    return yes_no("existence", f"Is there {with_article(color)} {shape} in the image?", truth, semantic="obj")


def has_sign(scene: Scene, rng: random.Random) -> Question:
    """Is there a sign?"""
    return yes_no("existence", "Is there a sign in the image?", scene.sign is not None, semantic="obj")


def has_both(scene: Scene, rng: random.Random) -> Question | None:
    """Are there objects of both shapes? One of them is present."""
    present = sorted({thing.shape for thing in scene.things})
    absent = [shape for shape in SHAPES if shape not in present]
    first = rng.choice(present)
    second = draw_other(present, first, rng=rng) if rng.random() < 0.5 and len(present) > 1 else rng.choice(absent)
    pair = [first, second]
    rng.shuffle(pair)
    text = f"Are there both {with_article(pair[0])} and {with_article(pair[1])} in the image?"
    return yes_no("logic", text, second in present, "logical", "obj")


def has_either(scene: Scene, rng: random.Random) -> Question | None:
    """Is there an object of one of two shapes? Half of the questions name one that is present."""
    present = sorted({thing.shape for thing in scene.things})
    first, second = rng.sample([shape for shape in SHAPES if shape not in present], 2)
    if rng.random() < 0.5:
        first = rng.choice(present)
    pair = [first, second]
    rng.shuffle(pair)
    text = f"Is there either {with_article(pair[0])} or {with_article(pair[1])} in the image?"
    return yes_no("logic", text, first in present, "logical", "obj")


# --- attributes ---


def what_color(scene: Scene, rng: random.Random) -> Question | None:
    """What colour is the only object of a shape?"""
    single = [t for t in scene.things if reference(scene, t) == f"the {t.shape}"]
    if not single:
        return None
    thing = rng.choice(single)
    return Question("color", f"What color is the {thing.shape}?", thing.color, tuple(COLORS))


def what_shape(scene: Scene, rng: random.Random) -> Question | None:
    """What shape is the only object of a colour?"""
    single = [t for t in scene.things if [u.color for u in scene.things].count(t.color) == 1]
    if not single:
        return None
    thing = rng.choice(single)
    return Question("shape", f"What shape is the {thing.color} object?", thing.shape, tuple(SHAPES), semantic="obj")


def is_color(scene: Scene, rng: random.Random) -> Question | None:
    """Does the only object of a shape have this colour? Half of the answers are yes."""
    asked = what_color(scene, rng)
    if asked is None:
        return None
    color = asked.answer if rng.random() < 0.5 else draw_other(COLORS, asked.answer, rng=rng)
    text = asked.text.replace("What color is", "Is").replace("?", f" {color}?")
    return yes_no("color", text, color == asked.answer)


def which_color(scene: Scene, rng: random.Random) -> Question | None:
    """Which of two colours does the only object of a shape have?"""
    asked = what_color(scene, rng)
    if asked is None:
        return None
    pair = [asked.answer, draw_other(COLORS, asked.answer, rng=rng)]
    rng.shuffle(pair)
    text = asked.text.replace("What color is", "Is").replace("?", f" {pair[0]} or {pair[1]}?")
    return Question("color", text, asked.answer, (), "choose")


def which_size(scene: Scene, rng: random.Random) -> Question:
    """Is an object small or large?"""
    thing = rng.choice(scene.things)
    return Question("size", f"Is {reference(scene, thing)} small or large?", thing.size, (), "choose")


def is_larger(scene: Scene, rng: random.Random) -> Question | None:
    """Is an object larger than another? Asked only if one is small and one is large."""
    pair = draw_two(scene, rng)
    if pair is None or pair[0].size == pair[1].size:
        return None
    text = f"Is {reference(scene, pair[0])} larger than {reference(scene, pair[1])}?"
    return yes_no("size", text, pair[0].size == "large", "compare")


def same_color(scene: Scene, rng: random.Random) -> Question | None:
    """Do two objects of different shapes have the same colour?"""
    pair = draw_two(scene, rng)
    if pair is None or pair[0].shape == pair[1].shape:
        return None
    alike = pair[0].color == pair[1].color
    if not alike and rng.random() < 0.85:  # two random objects rarely have the same colour
        return None
    text = f"Do {reference(scene, pair[0])} and {reference(scene, pair[1])} have the same color?"
    return yes_no("color", text, alike, "compare")


def what_background(scene: Scene, rng: random.Random) -> Question:
    """Which kind of background is it?"""
    return Question("background", "What is the background like?", scene.background, BACKGROUNDS, semantic="global")


# --- counts ---


def count_all(scene: Scene, rng: random.Random) -> Question:
    """How many objects are there?"""
    return Question("count", "How many shapes are there?", str(len(scene.things)), NUMBERS[1:5])


def count_kind(scene: Scene, rng: random.Random) -> Question:
    """How many objects of one shape or colour? Three quarters of the questions ask for one that is present."""
    kind = rng.choice(("shape", "color"))
    present = sorted({getattr(thing, kind) for thing in scene.things})
    value = rng.choice(present) if rng.random() < 0.75 else rng.choice(list(SHAPES if kind == "shape" else COLORS))
    number = sum(getattr(thing, kind) == value for thing in scene.things)
    what = f"{value}es" if value.endswith("ss") else f"{value}s" if kind == "shape" else f"{value} shapes"
    return Question("count", f"How many {what} are there?", str(number), NUMBERS[:4])


def is_count(scene: Scene, rng: random.Random) -> Question:
    """Is this the number of objects? Half of the answers are yes."""
    number = str(len(scene.things))
    asked = number if rng.random() < 0.5 else draw_other(NUMBERS[1:5], number, rng=rng)
    return yes_no("count", f"Is the number of shapes in the image {asked}?", asked == number)


def is_sum(scene: Scene, rng: random.Random) -> Question:
    """Is the number of objects plus a number equal to this? Half of the answers are yes."""
    more, number = rng.randint(1, 3), len(scene.things)
    result = number + more
    if rng.random() < 0.5:
        result = int(draw_other([str(n + more) for n in range(1, 5)], str(result), rng=rng))
    text = f"Is the number of shapes in the image plus {more} equal to {result}?"
    return yes_no("calculation", text, result == number + more)
