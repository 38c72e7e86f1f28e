"""Questions about scenes, with answers known from the scene's description.

A question is made by one function of a scene and a random generator, which returns None where the scene does not allow
it. What is asked for in a yes/no question is drawn so that always saying the same is right about half of the time.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from scripts.tiny.scenes import BACKGROUNDS, COLORS, PLACES, SHAPES, SIGN_COLORS, SIZE, WORDS, Scene, Thing

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_CN = "请直接回答选项字母。"
SHORT_CN = "请直接回答。"
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
NUMBERS = ("0", "1", "2", "3", "4", "5")
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
CHINESE = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "orange": "橙色",
    "purple": "紫色",
    "black": "黑色",
    "brown": "棕色",
    "circle": "圆形",
    "square": "方形",
    "triangle": "三角形",
    "star": "星形",
    "heart": "心形",
    "cross": "十字形",
    "ring": "环形",
    "diamond": "菱形",
    "moon": "月形",
    "arrow": "箭头",
    "plain": "纯色",
    "gradient": "渐变",
    "striped": "条纹",
    "noisy": "噪点",
    "cluttered": "杂乱",
}
CLEAR = 22  # pixels between two centres that make a direction unmistakable


@dataclass(frozen=True)
class Question:
    """`kind` names what is asked, `options` are the answers it could have had (none where there is no such list)."""

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


def other(options, *taken: str, rng: random.Random) -> str:
    """One of the options that is not taken."""
    return rng.choice([option for option in options if option not in taken])


def reference(scene: Scene, thing: Thing) -> str:
    """The shortest name that means this object alone."""
    alike = [other for other in scene.things if other.shape == thing.shape]
    return f"the {thing.shape}" if len(alike) == 1 else f"the {thing.name}"


def a(noun: str) -> str:
    """A noun with its article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def two(scene: Scene, rng: random.Random) -> list[Thing] | None:
    """Two different objects in a random order, if there are."""
    return rng.sample(scene.things, 2) if len(scene.things) > 1 else None


# --- existence ---


def has_shape(scene: Scene, rng: random.Random, shape: str | None = None) -> Question:
    """Is there such an object? Without `shape` half of the answers are yes."""
    present = sorted({thing.shape for thing in scene.things})
    if shape is None:
        shape = rng.choice(present) if rng.random() < 0.5 else other(SHAPES, *present, rng=rng)
    return yes_no("existence", f"Is there {a(shape)} in the image?", shape in present, semantic="obj")


def has_thing(scene: Scene, rng: random.Random) -> Question:
    """Is there an object of this shape and colour? The wrong ones are wrong in one of the two."""
    thing = rng.choice(scene.things)
    shape, color = thing.shape, thing.color
    draw = rng.random()
    if draw < 0.25:
        shape = other(SHAPES, shape, rng=rng)
    elif draw < 0.5:
        color = other(COLORS, color, rng=rng)
    truth = any((t.shape, t.color) == (shape, color) for t in scene.things)
    return yes_no("existence", f"Is there {a(color)} {shape} in the image?", truth, semantic="obj")


def has_sign(scene: Scene, rng: random.Random) -> Question:
    return yes_no("existence", "Is there a sign in the image?", scene.sign is not None, semantic="obj")


def has_both(scene: Scene, rng: random.Random) -> Question | None:
    present = sorted({thing.shape for thing in scene.things})
    absent = [shape for shape in SHAPES if shape not in present]
    first = rng.choice(present)
    second = other(present, first, rng=rng) if rng.random() < 0.5 and len(present) > 1 else rng.choice(absent)
    pair = [first, second]
    rng.shuffle(pair)
    text = f"Are there both {a(pair[0])} and {a(pair[1])} in the image?"
    return yes_no("logic", text, second in present, "logical", "obj")


def has_either(scene: Scene, rng: random.Random) -> Question | None:
    present = sorted({thing.shape for thing in scene.things})
    first, second = rng.sample([shape for shape in SHAPES if shape not in present], 2)
    if rng.random() < 0.5:
        first = rng.choice(present)
    pair = [first, second]
    rng.shuffle(pair)
    text = f"Is there either {a(pair[0])} or {a(pair[1])} in the image?"
    return yes_no("logic", text, first in present, "logical", "obj")


# --- attributes ---


def what_color(scene: Scene, rng: random.Random) -> Question | None:
    single = [t for t in scene.things if reference(scene, t) == f"the {t.shape}"]
    if not single:
        return None
    thing = rng.choice(single)
    return Question("color", f"What color is the {thing.shape}?", thing.color, tuple(COLORS))


def what_shape(scene: Scene, rng: random.Random) -> Question | None:
    single = [t for t in scene.things if [u.color for u in scene.things].count(t.color) == 1]
    if not single:
        return None
    thing = rng.choice(single)
    return Question("shape", f"What shape is the {thing.color} object?", thing.shape, tuple(SHAPES), semantic="obj")


def is_color(scene: Scene, rng: random.Random) -> Question | None:
    asked = what_color(scene, rng)
    if asked is None:
        return None
    color = asked.answer if rng.random() < 0.5 else other(COLORS, asked.answer, rng=rng)
    text = asked.text.replace("What color is", "Is").replace("?", f" {color}?")
    return yes_no("color", text, color == asked.answer)


def which_color(scene: Scene, rng: random.Random) -> Question | None:
    asked = what_color(scene, rng)
    if asked is None:
        return None
    pair = [asked.answer, other(COLORS, asked.answer, rng=rng)]
    rng.shuffle(pair)
    text = asked.text.replace("What color is", "Is").replace("?", f" {pair[0]} or {pair[1]}?")
    return Question("color", text, asked.answer, (), "choose")


def which_size(scene: Scene, rng: random.Random) -> Question:
    thing = rng.choice(scene.things)
    return Question("size", f"Is {reference(scene, thing)} small or large?", thing.size, (), "choose")


def is_larger(scene: Scene, rng: random.Random) -> Question | None:
    pair = two(scene, rng)
    if pair is None or pair[0].size == pair[1].size:
        return None
    text = f"Is {reference(scene, pair[0])} larger than {reference(scene, pair[1])}?"
    return yes_no("size", text, pair[0].size == "large", "compare")


def same_color(scene: Scene, rng: random.Random) -> Question | None:
    pair = two(scene, rng)
    if pair is None or pair[0].shape == pair[1].shape:
        return None
    alike = pair[0].color == pair[1].color
    if not alike and rng.random() < 0.85:  # two random objects seldom have one colour
        return None
    text = f"Do {reference(scene, pair[0])} and {reference(scene, pair[1])} have the same color?"
    return yes_no("color", text, alike, "compare")


def what_background(scene: Scene, rng: random.Random) -> Question:
    return Question("background", "What is the background like?", scene.background, BACKGROUNDS, semantic="global")


# --- places and relations ---


def where(scene: Scene, rng: random.Random) -> Question:
    thing = rng.choice(scene.things)
    return Question("location", f"Where is {reference(scene, thing)}?", thing.place, PLACES, semantic="rel")


def which_side(scene: Scene, rng: random.Random) -> Question | None:
    thing = rng.choice(scene.things)
    first, second, position = rng.choice((("left", "right", thing.x), ("top", "bottom", thing.y)))
    if abs(position - SIZE / 2) < CLEAR / 2:
        return None
    text = f"Is {reference(scene, thing)} on the {first} or on the {second} of the image?"
    return Question("location", text, first if position < SIZE / 2 else second, (), "choose", "rel")


def directions(first: Thing, second: Thing) -> set[str]:
    """How the first lies from the second: left, right, above, below; only what is clear."""
    found = {"left" if first.x < second.x else "right"} if abs(first.x - second.x) > CLEAR else set()
    return found | ({"above" if first.y < second.y else "below"} if abs(first.y - second.y) > CLEAR else set())


PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}


def is_related(scene: Scene, rng: random.Random) -> Question | None:
    pair = two(scene, rng)
    if pair is None or not (clear := sorted(directions(*pair))):
        return None
    truth, direction = rng.random() < 0.5, rng.choice(clear)
    phrase = PHRASES[direction if truth else OPPOSITES[direction]]
    text = f"Is {reference(scene, pair[0])} {phrase} {reference(scene, pair[1])}?"
    return yes_no("relation", text, truth, semantic="rel")


def which_relation(scene: Scene, rng: random.Random) -> Question | None:
    pair = two(scene, rng)
    if pair is None or not (clear := sorted(directions(*pair))):
        return None
    direction = rng.choice(clear)
    asked = sorted((direction, OPPOSITES[direction]), key=list(PHRASES).index)
    words = ("to the left or to the right of", "above or below")["above" in asked]
    text = f"Is {reference(scene, pair[0])} {words} {reference(scene, pair[1])}?"
    return Question("relation", text, direction, (), "choose", "rel")


def what_is_beside(scene: Scene, rng: random.Random) -> Question | None:
    """What lies on one side of an object, where exactly one other does and the rest clearly do not."""
    thing, direction = rng.choice(scene.things), rng.choice(list(PHRASES))
    there = [t for t in scene.things if t is not thing and direction in directions(t, thing)]
    clearly_not = [t for t in scene.things if t is not thing and OPPOSITES[direction] in directions(t, thing)]
    if len(there) != 1 or len(there) + len(clearly_not) != len(scene.things) - 1:
        return None
    text = f"What shape is {PHRASES[direction]} {reference(scene, thing)}?"
    return Question("relation", text, there[0].shape, tuple(SHAPES), semantic="rel")


# --- counts ---


def count_all(scene: Scene, rng: random.Random) -> Question:
    return Question("count", "How many shapes are there?", str(len(scene.things)), NUMBERS[1:5])


def count_kind(scene: Scene, rng: random.Random) -> Question:
    """How many of one shape or colour, mostly of one that is there."""
    kind = rng.choice(("shape", "color"))
    present = sorted({getattr(thing, kind) for thing in scene.things})
    value = rng.choice(present) if rng.random() < 0.75 else rng.choice(list(SHAPES if kind == "shape" else COLORS))
    number = sum(getattr(thing, kind) == value for thing in scene.things)
    what = f"{value}es" if value.endswith("ss") else f"{value}s" if kind == "shape" else f"{value} shapes"
    return Question("count", f"How many {what} are there?", str(number), NUMBERS[:4])


def is_count(scene: Scene, rng: random.Random) -> Question:
    number = str(len(scene.things))
    asked = number if rng.random() < 0.5 else other(NUMBERS[1:5], number, rng=rng)
    return yes_no("count", f"Is the number of shapes in the image {asked}?", asked == number)


# --- reading ---


def what_word(scene: Scene, rng: random.Random) -> Question | None:
    if scene.sign is None:
        return None
    if scene.sign.is_code:
        text = "What is the output of the code?"
    else:
        text = rng.choice(
            (
                "What word is written in the image?",
                "What does the sign say?",
                f"What is written on the {scene.sign.color} sign?",
            )
        )
    return Question("reading", text, scene.sign.word, tuple(WORDS), semantic="text")


def is_word(scene: Scene, rng: random.Random) -> Question | None:
    if scene.sign is None or scene.sign.is_code:
        return None
    word = scene.sign.word if rng.random() < 0.5 else other(WORDS, scene.sign.word, rng=rng)
    return yes_no("reading", f"Is the word in the image {word}?", word == scene.sign.word)


def what_sign_color(scene: Scene, rng: random.Random) -> Question | None:
    if scene.sign is None:
        return None
    return Question("color", "What color is the sign?", scene.sign.color, tuple(SIGN_COLORS))


# --- thinking ---


def is_sum(scene: Scene, rng: random.Random) -> Question:
    more, number = rng.randint(1, 3), len(scene.things)
    result = number + more
    if rng.random() < 0.5:
        result = int(other([str(n + more) for n in range(1, 5)], str(result), rng=rng))
    text = f"Is the number of shapes in the image plus {more} equal to {result}?"
    return yes_no("calculation", text, result == number + more)


def has_color_of(scene: Scene, rng: random.Random) -> Question:
    present = sorted({thing.color for thing in scene.things})
    color = rng.choice(present) if rng.random() < 0.5 else other(COLORS, *present, rng=rng)
    text = f"Is there a shape in the color of {THINGS_OF_COLOR[color]} in the image?"
    return yes_no("commonsense", text, color in present)


def is_translation(scene: Scene, rng: random.Random) -> Question | None:
    asked = is_word(scene, rng)
    if asked is None:
        return None
    spanish = WORDS[asked.text.removesuffix("?").rpartition(" ")[2]]
    text = f"Is it appropriate to translate the word in the image into Spanish {spanish}?"
    return replace(asked, kind="translation", text=text)


def is_output(scene: Scene, rng: random.Random) -> Question | None:
    if scene.sign is None or not scene.sign.is_code:
        return None
    word = scene.sign.word if rng.random() < 0.5 else other(WORDS, scene.sign.word, rng=rng)
    text = f"The image shows a python code. Is the output of the code {word}?"
    return yes_no("code", text, word == scene.sign.word)


# --- what the picture does not tell, and what needs no picture ---


def unanswerable(scene: Scene, rng: random.Random) -> Question:
    """A question about something that is not in the picture."""
    absent = [shape for shape in SHAPES if all(thing.shape != shape for thing in scene.things)]
    shape = rng.choice(absent)
    texts = [f"What color is the {shape}?", f"Where is the {shape}?"]
    if scene.sign is None:
        texts += ["What does the sign say?", "What color is the sign?"] * 2
    return Question("unanswerable", rng.choice(texts), "unanswerable")


def fact(scene: Scene | None, rng: random.Random) -> Question:
    """A question that is answered without a picture."""
    kind = rng.choice(("sides", "color", "translation"))
    if kind == "sides":
        shape = rng.choice(list(SIDES))
        return Question("fact", f"Which shape has {SIDES[shape]}?", shape, (*SIDES, "heart", "arrow"))
    if kind == "color":
        color = rng.choice(list(THINGS_OF_COLOR))
        return Question("fact", f"What is the color of {THINGS_OF_COLOR[color]}?", color, tuple(COLORS))
    word = rng.choice(list(WORDS))
    return Question("fact", f"What is the Spanish word for {word}?", WORDS[word], tuple(WORDS.values()))


# --- forms ---


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question: the options in their order and the letter of the right one."""

    question: Question
    options: tuple[str, ...]
    answer: str

    @property
    def lines(self) -> str:
        """The question and its options, one to a line."""
        return "\n".join([self.question.text, *(f"{x}. {option}" for x, option in zip("ABCD", self.options))])


def as_choice(question: Question, rng: random.Random) -> Choice | None:
    """The question with two to four options; None if it has no list of answers."""
    wrong = [option for option in question.options if option != question.answer]
    if not wrong:
        return None
    options = [question.answer, *rng.sample(wrong, min(3, len(wrong)))]
    rng.shuffle(options)
    return Choice(question, tuple(options), "ABCD"[options.index(question.answer)])


def options_of(text: str) -> dict[str, str]:
    """The options in the text of a multiple-choice question, by letter; empty for another question."""
    return dict(re.findall(r"^([A-D])\. (.*)$", text, re.MULTILINE))


def in_chinese(question: Question) -> Question | None:
    """The question in Chinese, if it is of a kind that has a translation."""
    words = question.text.rstrip("?").split()
    if question.answer not in CHINESE:
        return None
    if question.text.startswith("What color is the") and words[-1] in CHINESE:
        text = f"{CHINESE[words[-1]]}是什么颜色？"
    elif question.text.startswith("What shape is the"):
        text = f"{CHINESE[words[4]]}的物体是什么形状？" if words[4] in CHINESE and words[3] == "the" else None
    elif question.kind == "background":
        text = "背景是什么样的？"
    else:
        text = None
    if text is None:
        return None
    options = tuple(CHINESE[option] for option in question.options)
    return replace(question, text=text, answer=CHINESE[question.answer], options=options)


def describe(scene: Scene) -> str:
    """The answer to a request for a description: what there is, from top to bottom."""
    things = tuple(sorted(scene.things, key=lambda thing: (thing.y // (SIZE // 3), thing.x)))
    return f"The image shows {replace(scene, things=things).caption}"


# What one look at one place answers; the first that is learned, and what the rest is built of.
LOOKUPS: tuple[Maker, ...] = (what_color, what_shape, where, what_word, what_background, has_shape, has_shape)
OPEN: tuple[Maker, ...] = (what_color, what_shape, where, what_background, count_all, count_kind, what_word)
SHORT_ANSWERS: tuple[Maker, ...] = (
    has_shape,
    has_shape,
    has_thing,
    has_sign,
    has_both,
    has_either,
    is_color,
    which_color,
    which_size,
    is_larger,
    same_color,
    which_side,
    is_related,
    which_relation,
    what_is_beside,
    is_count,
    is_word,
    what_sign_color,
    is_sum,
    has_color_of,
    is_translation,
    is_output,
    what_word,
    what_word,
    *OPEN,
)


def ask(makers: tuple[Maker, ...], scene: Scene, rng: random.Random) -> Question | None:
    """A question of a random kind among those that the scene allows; None after twenty that it does not."""
    for _ in range(20):
        question = rng.choice(makers)(scene, rng)
        if question is not None:
            return question
    return None
