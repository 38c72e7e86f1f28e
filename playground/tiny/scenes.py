"""Scenes of known content: a seed decides the objects, the background and the sign of a scene.

Training and evaluation use different seeds, so that no scene is in both.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count, islice

from PIL import ImageFont

SIZE = 168
PATCH = 14

COLORS = {
    "red": (214, 30, 34),
    "green": (32, 150, 52),
    "blue": (30, 70, 214),
    "yellow": (244, 214, 24),
    "orange": (246, 130, 14),
    "purple": (134, 38, 166),
    "black": (14, 14, 16),
    "brown": (122, 70, 32),
}
# The number after a shape is its weight in the draw. Each shape has a companion that often appears with it. POPE needs
# both: popular questions ask for frequent shapes, adversarial ones for companions of the shapes that are present.
SHAPES = {
    "circle": 18,
    "square": 16,
    "triangle": 14,
    "star": 12,
    "heart": 10,
    "cross": 9,
    "ring": 8,
    "diamond": 7,
    "moon": 6,
    "arrow": 5,
}
COMPANIONS = {"circle": "ring", "square": "diamond", "triangle": "arrow", "star": "moon", "heart": "cross"}
COMPANIONS |= {companion: shape for shape, companion in COMPANIONS.items()}
SIZES = {"small": (19, 23), "large": (33, 41)}
BACKGROUNDS = ("plain", "gradient", "striped", "noisy", "cluttered")
SIGN_COLORS = {"white": (252, 252, 252), "yellow": (250, 226, 60), "pink": (250, 176, 196)}
# English words that fit on a sign, each with its Spanish translation.
WORDS = {
    "stop": "alto",
    "exit": "salida",
    "open": "abierto",
    "cat": "gato",
    "dog": "perro",
    "sun": "sol",
    "sea": "mar",
    "house": "casa",
    "milk": "leche",
    "bread": "pan",
    "fish": "pez",
    "bird": "ave",
    "book": "libro",
    "door": "puerta",
    "fire": "fuego",
    "snow": "nieve",
    "king": "rey",
    "soup": "sopa",
    "shop": "tienda",
    "park": "parque",
    "hand": "mano",
    "foot": "pie",
    "city": "ciudad",
    "wine": "vino",
}


def place_name(x: float, y: float) -> str:
    """The name of the cell, of a 3x3 grid over the picture, in which a point lies: "top left" to "bottom right"."""
    column, row = ("left", "", "right")[int(3 * x / SIZE)], ("top", "", "bottom")[int(3 * y / SIZE)]
    return f"{row} {column}".strip() or "center"


# The nine names, row by row.
PLACES = tuple(place_name(x, y) for y in (28, 84, 140) for x in (28, 84, 140))


@dataclass(frozen=True)
class Thing:
    """One object. `x` and `y` are its centre, `extent` is its width and height, in pixels."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    extent: int

    @property
    def place(self) -> str:
        return place_name(self.x, self.y)

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def phrase(self) -> str:
        return f"a {self.size} {self.name} at the {self.place}"


@dataclass(frozen=True)
class Sign:
    """A sign with a word, or with a line of Python that prints the word.

    `x` and `y` are its centre; they, `width` and `height` are in pixels.
    """

    word: str
    color: str
    is_code: bool
    x: int
    y: int
    width: int
    height: int

    @property
    def text(self) -> str:
        return f'print("{self.word.upper()}")' if self.is_code else self.word.upper()

    @property
    def place(self) -> str:
        return place_name(self.x, self.y)

    @property
    def phrase(self) -> str:
        what = "code that prints" if self.is_code else "the word"
        return f"{what} {self.word} on a {self.color} sign at the {self.place}"


@dataclass(frozen=True)
class Scene:
    """The content of a picture. `seed` also decides the colours and the texture of the background."""

    seed: int
    background: str
    things: tuple[Thing, ...]
    sign: Sign | None

    @property
    def caption(self) -> str:
        """A sentence that names every object, the sign and the background."""
        parts = [part.phrase for part in (*self.things, self.sign) if part is not None]
        listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"
        return f"{listed}, on a {self.background} background."

    @property
    def description(self) -> tuple:
        """The caption's content regardless of order. No description is in both training and evaluation."""
        sign = self.sign and (self.sign.word, self.sign.color, self.sign.is_code, self.sign.place)
        return self.background, frozenset((t.size, t.color, t.shape, t.place) for t in self.things), sign


# Training uses the seeds from 0 on, evaluation those from here on.
EVALUATION_SEED = 1_000_000_000


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font, so that pictures do not depend on the fonts of the machine."""
    return ImageFont.load_default(size)


def make_scene(seed: int, with_sign: bool | None = None, is_code: bool | None = None) -> Scene:
    """The scene of a seed. `with_sign` and `is_code`, if given, overrule the seed."""
    rng = random.Random(seed)
    background = rng.choice(BACKGROUNDS)
    sign_drawn, code_drawn = rng.random() < 0.55, rng.random() < 0.2
    taken: list[tuple[float, float, float, float]] = []
    sign = None
    if sign_drawn if with_sign is None else with_sign:
        sign = _make_sign(rng, code_drawn if is_code is None else is_code)
        taken.append((sign.x, sign.y, sign.width, sign.height))
    things: list[Thing] = []
    for _ in range(rng.choice((1, 2, 2, 3, 3, 3, 4, 4))):
        thing = _make_thing(rng, things, taken)
        if thing is not None:
            things.append(thing)
            taken.append((thing.x, thing.y, thing.extent, thing.extent))
    return Scene(seed, background, tuple(things), sign)


@cache
def evaluation_scenes() -> dict[str, list[Scene]]:
    """The scenes held out for evaluation: of `any` kind, with a word on a `sign`, and with `code` on it."""
    seeds = count(EVALUATION_SEED)
    return {
        "any": [make_scene(next(seeds)) for _ in range(800)],
        "sign": [make_scene(next(seeds), with_sign=True, is_code=False) for _ in range(400)],
        "code": [make_scene(next(seeds), with_sign=True, is_code=True) for _ in range(60)],
    }


def training_scenes(number: int) -> Iterator[Scene]:
    """The first `number` training scenes, without those whose description is held out for evaluation."""
    held_out = {scene.description for scenes in evaluation_scenes().values() for scene in scenes}
    scenes = (make_scene(seed) for seed in range(EVALUATION_SEED))
    return islice((scene for scene in scenes if scene.description not in held_out), number)


def _make_sign(rng: random.Random, is_code: bool) -> Sign:
    word, color = rng.choice(list(WORDS)), rng.choice(list(SIGN_COLORS))
    sign = Sign(word, color, is_code, 0, 0, 0, 0)
    width = int(font(sign_font_size(is_code)).getlength(sign.text)) + 10
    height = 26
    x = rng.randint(width // 2 + 2, SIZE - width // 2 - 2)
    y = rng.randint(height // 2 + 2, SIZE - height // 2 - 2)
    return Sign(word, color, is_code, x, y, width, height)


def sign_font_size(is_code: bool) -> int:
    """Font size in pixels: capitals about as high as a patch; a line of code must be smaller to fit."""
    return 16 if is_code else 22


def _make_thing(rng: random.Random, things: list[Thing], taken: list[tuple]) -> Thing | None:
    """An object that differs from all `things` and overlaps none of the boxes in `taken`.

    None if thirty draws give none; for the first object the draws go on until one fits.
    """
    for _ in range(30):
        if things and rng.random() < 0.35:
            shape = COMPANIONS[things[-1].shape]
        else:
            shape = rng.choices(list(SHAPES), list(SHAPES.values()))[0]
        color, size = rng.choice(list(COLORS)), rng.choice(list(SIZES))
        extent = rng.randint(*SIZES[size])
        x, y = (rng.randint(extent // 2 + 2, SIZE - extent // 2 - 2) for _ in range(2))
        is_new = all((shape, color) != (other.shape, other.color) for other in things)
        is_free = all(
            abs(x - ox) > (extent + width) / 2 + 4 or abs(y - oy) > (extent + height) / 2 + 4
            for ox, oy, width, height in taken
        )
        if is_new and is_free:
            return Thing(shape, color, size, x, y, extent)
    return None if things else _make_thing(rng, things, taken)
