"""The content of each patch of a scene's picture."""

import random

import numpy as np

from playground.tiny.drawing import shape_mask
from playground.tiny.scenes import PATCH, SIZE, Scene, Sign, Thing


def cover(thing: Thing | Sign) -> np.ndarray:
    """(12, 12) float32: the share of each patch that an object or the sign covers."""
    pixels = np.zeros((SIZE, SIZE), np.float32)
    width, height = (thing.width, thing.height) if isinstance(thing, Sign) else (thing.extent, thing.extent)
    left, top = thing.x - width // 2, thing.y - height // 2
    mask = 1.0 if isinstance(thing, Sign) else np.asarray(shape_mask(thing.shape, thing.extent), np.float32) / 255
    pixels[top : top + height, left : left + width] = mask
    side = SIZE // PATCH
    return pixels.reshape(side, PATCH, side, PATCH).mean(axis=(1, 3))


def words_of_patches(scene: Scene) -> list[str]:
    """For each of the 144 patches, row by row, the words that describe its content.

    A patch that an object or the sign covers by 15 % or more is described by it and its place, by the last one if there
    are several; any other patch by the kind of the background.
    """
    words = [scene.background] * (SIZE // PATCH) ** 2
    for thing in (*scene.things, scene.sign):
        if thing is not None:
            for patch in np.flatnonzero(cover(thing).reshape(-1) >= 0.15):
                words[patch] = thing.phrase.removeprefix("a ").removeprefix("the ").replace(" at the", "")
    return words


def object_patches(scene: Scene, min_share: float = 0.2) -> np.ndarray:
    """(12, 12) bool: whether objects and the sign together cover at least `min_share` of a patch."""
    shown = (*scene.things, *([scene.sign] if scene.sign is not None else []))
    return sum(cover(thing) for thing in shown) >= min_share


def draw_shown_patches(scene: Scene, rng: random.Random, share: float, background_share: float) -> list[bool]:
    """Whether each of the 144 patches is among those that are shown.

    A patch of an object or the sign is shown with probability `share`, one of the background with `background_share`.
    At least one patch of each description is shown.
    """
    words = words_of_patches(scene)
    shown = [rng.random() < (background_share if text == scene.background else share) for text in words]
    for text in dict.fromkeys(words):  # a set has another order in each process, and the draws depend on the order
        shown[rng.choice([i for i, other in enumerate(words) if other == text])] = True
    return shown
