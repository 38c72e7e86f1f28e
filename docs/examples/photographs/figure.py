"""The picture: photographs, the [CLS] attention to their patches, and the patches that each method keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from docs.examples.photographs.photographs import padding
from llava.vision.pixels import expand2square

PATCH, FRAME, GAP, LINE, FONT = 10, 2, 14, 44, 32  # pixels
IMPORTANT, DIVERSE, KEPT = (213, 94, 0), (0, 114, 178), (0, 0, 0)  # colour-blind readers tell them apart
HEAT = np.array([(0, 0, 0), (120, 20, 80), (220, 60, 30), (250, 190, 40), (255, 255, 220)], dtype=np.float64)


@dataclass(frozen=True)
class Panel:
    """A square picture, how a method is called, and a line below it."""

    image: Image.Image
    title: str
    caption: str


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """The photograph on a square of its longer side, `side` patches wide."""
    return expand2square(image, (255, 255, 255)).resize((side * PATCH, side * PATCH), Image.Resampling.LANCZOS)


def outlined(image: Image.Image, outline, side: int) -> Image.Image:
    """The enlarged photograph with the object's polygon, which is in the photograph's pixels."""
    shown, (left, top) = enlarged(image, side), padding(image.size)
    scale = side * PATCH / max(image.size)
    points = [((x + left) * scale, (y + top) * scale) for x, y in outline]
    draw = ImageDraw.Draw(shown)
    for width, color in ((4, "black"), (2, "white")):
        draw.line([*points, points[0]], fill=color, width=width, joint="curve")
    return shown


def heat_map(importance: np.ndarray, side: int) -> Image.Image:
    """(N,) as colours, from black at 0 to white at the 99.5th percentile and above: single patches have far more."""
    level = np.clip(importance / np.quantile(importance, 0.995), 0, 1).reshape(side, side) * (len(HEAT) - 1)
    colors = np.stack([np.interp(level, range(len(HEAT)), channel) for channel in HEAT.T], axis=-1)
    return Image.fromarray(colors.round().astype(np.uint8)).resize(
        (side * PATCH, side * PATCH), Image.Resampling.NEAREST
    )


def faded(image: Image.Image, colors: dict[int, tuple[int, int, int]], side: int) -> Image.Image:
    """The enlarged photograph, faded but for the patches of `colors`, around which there is a frame of these."""
    shown = enlarged(image, side)
    grey = ImageOps.posterize(Image.blend(shown.convert("L"), Image.new("L", shown.size, "white"), 0.72), 5)
    result = grey.convert("RGB")  # of few levels, which makes the file small
    draw = ImageDraw.Draw(result)
    boxes = {patch: (patch % side * PATCH, patch // side * PATCH) for patch in colors}
    for patch, (x, y) in boxes.items():
        draw.rectangle((x - FRAME, y - FRAME, x + PATCH + FRAME - 1, y + PATCH + FRAME - 1), fill=colors[patch])
    for x, y in boxes.values():  # after all frames, so that none hides a patch
        result.paste(shown.crop((x, y, x + PATCH, y + PATCH)), (x, y))
    return result


def figure(rows: list[tuple[Image.Image, list[Panel]]], side: int) -> Image.Image:
    """A row of panels for each photograph, without its padding; titles above the first row, a legend below the last."""
    font, width = ImageFont.load_default(size=FONT), side * PATCH
    heights = []
    for image, _ in rows:
        top = round(padding(image.size)[1] * width / max(image.size))
        heights.append((top, width - 2 * top))
    size = (max(len(panels) for _, panels in rows) * (width + GAP) - GAP, 2 * LINE + sum(h + LINE for _, h in heights))
    result = Image.new("RGB", size, "white")
    draw, y = ImageDraw.Draw(result), LINE
    for i, (_, panels) in enumerate(rows):
        top, height = heights[i]
        for j, panel in enumerate(panels):
            x = j * (width + GAP)
            if i == 0:
                draw.text((x, 0), panel.title, fill="black", font=font)
            result.paste(panel.image.crop((0, top, width, top + height)), (x, y))
            draw.text((x, y + height + 2), panel.caption, fill="black", font=font)
        y += height + LINE
    x = 0.0
    for text, color in (("vispruner: important", IMPORTANT), ("vispruner: diverse", DIVERSE), ("kept", KEPT)):
        draw.rectangle((x, y + 12, x + 24, y + 36), outline=color, width=5)
        draw.text((x + 36, y), text, fill="black", font=font)
        x += 80 + draw.textlength(text, font=font)
    # The palette by k-means: the default gives small things of a strong colour, such as frames, no colour of their own.
    return result.quantize(palette=result.quantize(256, kmeans=3))
