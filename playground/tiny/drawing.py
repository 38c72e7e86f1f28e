"""The picture of a scene."""

import io
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from playground.tiny.scenes import COLORS, SIGN_COLORS, SIZE, Scene, font, sign_font_size

JPEG_QUALITY = 90


def draw_scene(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, 168x168 pixels."""
    rng = np.random.default_rng(scene.seed)
    image = Image.fromarray(_background(scene.background, rng))
    for thing in scene.things:
        shift = rng.integers(-12, 13, 3)
        color = tuple(int(c) for c in np.clip(np.array(COLORS[thing.color]) + shift, 0, 255))
        mask = shape_mask(thing.shape, thing.extent)
        image.paste(color, (thing.x - thing.extent // 2, thing.y - thing.extent // 2), mask)
    if scene.sign is not None:
        sign, draw = scene.sign, ImageDraw.Draw(image)
        left, top = sign.x - sign.width // 2, sign.y - sign.height // 2
        draw.rectangle((left, top, left + sign.width, top + sign.height), fill=SIGN_COLORS[sign.color])
        draw.text((sign.x, sign.y), sign.text, COLORS["black"], font(sign_font_size(sign.is_code)), anchor="mm")
    return image


def jpeg(scene: Scene) -> bytes:
    """The picture as a JPEG file of the quality that training's pictures have."""
    buffer = io.BytesIO()
    draw_scene(scene).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


@cache
def shape_mask(shape: str, extent: int) -> Image.Image:
    """The share of each pixel of an `extent` x `extent` box that a shape covers, 0 to 255 (mode L).

    The shape is drawn eight times as large and scaled down, which smooths its edges.
    """
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


def _background(kind: str, rng: np.random.Generator) -> np.ndarray:
    """(168, 168, 3) uint8, in pale colours that contrast with the colours of all objects."""

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
    """The image with short lines and dots in darker shades of its own colour."""
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
