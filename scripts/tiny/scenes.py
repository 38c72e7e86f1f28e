"""Scenes with known contents: a seed -> objects, background and sometimes a sign -> a 168x168 picture and its caption.

Everything about a scene follows from its seed, so that training and evaluation can be kept apart by seeds.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count, islice

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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
# Some shapes are seen more often than others, and each has one that likes to stand beside it, so that there are popular
# and adversarial things to ask for.
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
# English words that fit on a sign, and the Spanish ones that they are asked to be translated into.
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


def place(x: float, y: float) -> str:
    """The name of the ninth of the picture in which a point lies."""
    column, row = ("left", "", "right")[int(3 * x / SIZE)], ("top", "", "bottom")[int(3 * y / SIZE)]
    return f"{row} {column}".strip() or "center"


# The nine names, in the order of reading.
PLACES = tuple(place(x, y) for y in (28, 84, 140) for x in (28, 84, 140))


@dataclass(frozen=True)
class Thing:
    """One object: `x`, `y` is its centre and `extent` its width and height, in pixels."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    extent: int

    @property
    def place(self) -> str:
        return place(self.x, self.y)

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def phrase(self) -> str:
        return f"a {self.size} {self.name} at the {self.place}"


@dataclass(frozen=True)
class Sign:
    """A plate with a word, or with a line of Python that prints the word; `x`, `y`, `width`, `height` in pixels."""

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
        return place(self.x, self.y)

    @property
    def phrase(self) -> str:
        what = "code that prints" if self.is_code else "the word"
        return f"{what} {self.word} on a {self.color} sign at the {self.place}"


@dataclass(frozen=True)
class Scene:
    """What is in a picture. `seed` also decides what no word says: the background's colours and its texture."""

    seed: int
    background: str
    things: tuple[Thing, ...]
    sign: Sign | None

    @property
    def caption(self) -> str:
        """All that can be said of the scene; two scenes with one caption differ in pixels only."""
        parts = [part.phrase for part in (*self.things, self.sign) if part is not None]
        listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"
        return f"{listed}, on a {self.background} background."

    @property
    def description(self) -> tuple:
        """The caption without its order: what must not be both in training and in evaluation."""
        sign = self.sign and (self.sign.word, self.sign.color, self.sign.is_code, self.sign.place)
        return self.background, frozenset((t.size, t.color, t.shape, t.place) for t in self.things), sign


# Seeds from here on are evaluation's; training's begin at 0.
EVALUATION_SEED = 1_000_000_000


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that pictures do not depend on the fonts of the machine."""
    return ImageFont.load_default(size)


def make_scene(seed: int, with_sign: bool | None = None, is_code: bool | None = None) -> Scene:
    """The scene of a seed; `with_sign` and `is_code` decide what the seed otherwise would."""
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
    """The scenes held out for evaluation: `any` kind, with a `sign`, and with `code` on it."""
    seeds = count(EVALUATION_SEED)
    return {
        "any": [make_scene(next(seeds)) for _ in range(800)],
        "sign": [make_scene(next(seeds), with_sign=True, is_code=False) for _ in range(400)],
        "code": [make_scene(next(seeds), with_sign=True, is_code=True) for _ in range(60)],
    }


def training_scenes(number: int) -> Iterator[Scene]:
    """The first scenes of training whose description is none of those held out."""
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
    """Letters a patch high; a line of code has to be a little smaller to fit."""
    return 16 if is_code else 22


def _make_thing(rng: random.Random, things: list[Thing], taken: list[tuple]) -> Thing | None:
    """An object that is not there yet, where there is room; None if there is no room."""
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


def draw_scene(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, 168x168."""
    rng = np.random.default_rng(scene.seed)
    image = Image.fromarray(_background(scene.background, rng))
    for thing in scene.things:
        shift = rng.integers(-12, 13, 3)
        color = tuple(int(c) for c in np.clip(np.array(COLORS[thing.color]) + shift, 0, 255))
        mask = _shape_mask(thing.shape, thing.extent)
        image.paste(color, (thing.x - thing.extent // 2, thing.y - thing.extent // 2), mask)
    if scene.sign is not None:
        sign, draw = scene.sign, ImageDraw.Draw(image)
        left, top = sign.x - sign.width // 2, sign.y - sign.height // 2
        draw.rectangle((left, top, left + sign.width, top + sign.height), fill=SIGN_COLORS[sign.color])
        draw.text((sign.x, sign.y), sign.text, COLORS["black"], font(sign_font_size(sign.is_code)), anchor="mm")
    return image


def cover(thing: Thing | Sign) -> np.ndarray:
    """(12, 12) float: the share of each patch that an object, or the sign, covers."""
    pixels = np.zeros((SIZE, SIZE), np.float32)
    width, height = (thing.width, thing.height) if isinstance(thing, Sign) else (thing.extent, thing.extent)
    left, top = thing.x - width // 2, thing.y - height // 2
    mask = 1.0 if isinstance(thing, Sign) else np.asarray(_shape_mask(thing.shape, thing.extent), np.float32) / 255
    pixels[top : top + height, left : left + width] = mask
    side = SIZE // PATCH
    return pixels.reshape(side, PATCH, side, PATCH).mean(axis=(1, 3))


def words_of_patches(scene: Scene) -> list[str]:
    """The words for what each of the 144 patches shows most of: an object or the sign with its place, or background."""
    words = [scene.background] * (SIZE // PATCH) ** 2
    for thing in (*scene.things, scene.sign):
        if thing is not None:
            for patch in np.flatnonzero(cover(thing).reshape(-1) >= 0.15):
                words[patch] = thing.phrase.removeprefix("a ").removeprefix("the ").replace(" at the", "")
    return words


def object_patches(scene: Scene, min_share: float = 0.2) -> np.ndarray:
    """(12, 12) bool: the patches of which objects and the sign cover at least `min_share`."""
    shown = (*scene.things, *([scene.sign] if scene.sign is not None else []))
    return sum(cover(thing) for thing in shown) >= min_share


def _background(kind: str, rng: np.random.Generator) -> np.ndarray:
    """(168, 168, 3) uint8 in pale colours, against which every object's colour stands out."""

    def pale() -> np.ndarray:
        return rng.uniform(188, 232) + rng.uniform(-18, 18, 3)

    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    first, second = pale(), pale()
    canvas = np.broadcast_to(first, (SIZE, SIZE, 3)).copy()
    if kind == "gradient":
        share = (along - along.min()) / np.ptp(along)
        canvas = first + (second - first + rng.choice((-25, 25))) * share[..., None]
    elif kind == "striped":
        band = np.sin(2 * np.pi * along * rng.uniform(6, 14)) > 0
        canvas = np.where(band[..., None], first, first - rng.uniform(12, 26))
    elif kind == "noisy":
        coarse = np.asarray(Image.fromarray(rng.normal(0, 7, (14, 14)).astype(np.float32)).resize((SIZE, SIZE)))
        canvas = canvas + coarse[..., None] + rng.normal(0, 8, (SIZE, SIZE, 1)) + rng.normal(0, 4, canvas.shape)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return _clutter(image, rng) if kind == "cluttered" else image


def _clutter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(25, 50)):
        x, y, dx, dy = rng.uniform(0, SIZE, 2).tolist() + rng.uniform(-16, 16, 2).tolist()
        tone = tuple(int(c) for c in np.clip(image[0, 0] - rng.uniform(0, 45) + rng.uniform(-12, 12, 3), 0, 255))
        if rng.random() < 0.6:
            draw.line((x, y, x + dx, y + dy), fill=tone, width=int(rng.integers(1, 3)))
        else:
            radius = rng.uniform(1, 4)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tone)
    return np.asarray(picture)


@cache
def _shape_mask(shape: str, extent: int) -> Image.Image:
    """How much of each pixel of an `extent` x `extent` box a shape covers (mode L), drawn eight times as large."""
    n = 8 * extent
    mask = Image.new("L", (n, n))
    draw = ImageDraw.Draw(mask)

    def polygon(*points: tuple[float, float]) -> None:
        draw.polygon([(x * n, y * n) for x, y in points], fill=255)

    if shape in ("circle", "ring", "moon"):
        draw.ellipse((0, 0, n - 1, n - 1), fill=255)
        if shape == "ring":
            draw.ellipse((0.27 * n, 0.27 * n, 0.73 * n, 0.73 * n), fill=0)
        elif shape == "moon":
            draw.ellipse((0.32 * n, -0.06 * n, 1.2 * n, 0.82 * n), fill=0)
    elif shape == "square":
        draw.rectangle((0.04 * n, 0.04 * n, 0.96 * n, 0.96 * n), fill=255)
    elif shape == "triangle":
        polygon((0.5, 0.02), (1, 0.95), (0, 0.95))
    elif shape == "diamond":
        polygon((0.5, 0), (0.9, 0.5), (0.5, 1), (0.1, 0.5))
    elif shape == "cross":
        draw.rectangle((0.33 * n, 0, 0.67 * n, n), fill=255)
        draw.rectangle((0, 0.33 * n, n, 0.67 * n), fill=255)
    elif shape == "arrow":
        polygon((0, 0.34), (0.5, 0.34), (0.5, 0.04), (1, 0.5), (0.5, 0.96), (0.5, 0.66), (0, 0.66))
    elif shape == "star":
        turns = [np.pi * (i / 5 - 0.5) for i in range(10)]
        radii = [0.52 if i % 2 == 0 else 0.21 for i in range(10)]
        polygon(*((0.5 + r * np.cos(a), 0.53 + r * np.sin(a)) for r, a in zip(radii, turns)))
    else:
        draw.ellipse((0, 0.04 * n, 0.52 * n, 0.56 * n), fill=255)
        draw.ellipse((0.48 * n, 0.04 * n, n, 0.56 * n), fill=255)
        polygon((0.04, 0.41), (0.5, 0.31), (0.96, 0.41), (0.5, 0.98))
    return mask.resize((extent, extent), Image.Resampling.BOX)
