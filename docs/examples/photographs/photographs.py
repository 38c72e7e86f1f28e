"""scikit-image's colour photographs of everyday things, all in the public domain, and where the object of each lies.

They are all that its wheel has of that kind. What is left out shows the sky or tissue through an instrument, or has
another licence.

Shapes: N patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from llava.vision.pictures import read_picture

_FINE = 32  # points along one side of a patch that tell how much of it is on the object


@dataclass(frozen=True)
class Photograph:
    """A file of scikit-image's folder `data`, and its object: a polygon drawn by hand, in pixels of the photograph."""

    name: str
    file: str
    thing: str
    outline: tuple[tuple[int, int], ...]

    def read(self, folder: Path) -> Image.Image:
        """The photograph as RGB. Raises InputError if it is not in the folder."""
        return read_picture(str(folder / self.file))


# fmt: off
PHOTOGRAPHS = (
    # NASA, "released into the public domain". Without the helmet at her side.
    Photograph("astronaut", "astronaut.png", "the woman in her suit", (
        (153, 80), (158, 58), (175, 38), (198, 22), (230, 15), (262, 20), (288, 42), (300, 75), (301, 98), (290, 120),
        (272, 135), (262, 160), (260, 175), (285, 195), (302, 220), (305, 238), (325, 250), (342, 265), (352, 290),
        (362, 325), (365, 352), (345, 358), (318, 375), (296, 402), (282, 440), (278, 475), (282, 512), (20, 512),
        (22, 470), (24, 455), (20, 405), (30, 330), (42, 300), (52, 262), (75, 238), (115, 207), (113, 190), (122, 185),
        (130, 165), (150, 152), (180, 148), (178, 130), (160, 115), (152, 97),
    )),
    # CC0 by Stefan van der Walt.
    Photograph("chelsea", "chelsea.png", "the cat", (
        (42, 0), (400, 0), (385, 20), (370, 50), (352, 74), (358, 100), (362, 122), (360, 150), (345, 185), (325, 208),
        (308, 228), (302, 252), (285, 268), (268, 278), (250, 300), (0, 300), (0, 215), (18, 200), (0, 170), (0, 150),
        (40, 138), (32, 115), (33, 60),
    )),
    # CC0 by Rachel Michetti.
    Photograph("coffee", "coffee.png", "the cup, its saucer and the spoon", (
        (175, 78), (185, 55), (205, 35), (235, 22), (280, 18), (330, 24), (370, 42), (395, 68), (412, 66), (424, 76),
        (420, 100), (450, 130), (472, 175), (479, 220), (472, 265), (450, 310), (412, 345), (365, 372), (310, 386),
        (260, 385), (205, 368), (150, 338), (110, 300), (85, 255), (77, 205), (82, 165), (105, 125), (140, 95),
    )),
    # SpaceX, "released in the public domain".
    Photograph("rocket", "rocket.jpg", "the rocket", (
        (317, 126), (325, 133), (329, 145), (331, 178), (336, 190), (336, 240), (331, 300), (331, 407), (309, 407),
        (309, 300), (308, 240), (308, 190), (311, 178), (311, 145), (315, 130),
    )),
)
# fmt: on


def padding(size: tuple[int, int]) -> tuple[int, int]:
    """Pixels left of and above a photograph of `size` (W, H) on the square of its longer side."""
    return (max(size) - size[0]) // 2, (max(size) - size[1]) // 2


def patch_shares(size: tuple[int, int], outline, side: int) -> tuple[np.ndarray, np.ndarray]:
    """How much of each patch, in [0, 1], is on the object and how much on the photograph at all.

    Args:
        size: (W, H) of the photograph, which the tower sees on a square of its longer side.
        outline: the object's polygon, in pixels of the photograph.
        side: patches along one side of the square.

    Returns two arrays (N,) float64, in raster order.
    """
    scale = side / max(size)
    left, top = (scale * pixels for pixels in padding(size))
    mask = Image.new("1", (side * _FINE, side * _FINE))
    # Pillow draws where the middle of a pixel lies.
    points = [((x * scale + left) * _FINE - 0.5, (y * scale + top) * _FINE - 0.5) for x, y in outline]
    ImageDraw.Draw(mask).polygon(points, fill=1)
    on_object = np.asarray(mask).reshape(side, _FINE, side, _FINE).mean(axis=(1, 3))
    rows, columns = (
        np.clip(np.minimum(start + length * scale - np.arange(side), np.arange(side) + 1 - start), 0, 1)
        for start, length in ((top, size[1]), (left, size[0]))
    )
    on_photograph = np.outer(rows, columns)
    return np.minimum(on_object, on_photograph).ravel(), on_photograph.ravel()


def share_on_object(weights: np.ndarray, on_object: np.ndarray, on_photograph: np.ndarray) -> float:
    """The part of the weights (N,) on the photograph that is on the object: of the padding nothing is counted."""
    return float((weights * on_object).sum() / (weights * on_photograph).sum())
