"""Draw which patches `select_visual_tokens` keeps of a drawn scene: assets/selection.png.

An illustration of the method without trained weights: a patch's features are its colours, and the attention it is given
is how far they are from the scene's average.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from llava.model.visual_token_pruning import select_visual_tokens

SIDE, PATCH, SCALE = 24, 14, 2
IMPORTANT, DIVERSE = (220, 50, 30), (30, 90, 220)


def draw_scene() -> Image.Image:
    """A meadow under a sky, with a house, a tree, a dog and the sun."""
    size = SIDE * PATCH
    image = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(image)
    for y in range(size):
        t = y / size
        sky, grass = (int(140 + 60 * t), int(185 + 40 * t), 235), (int(95 + 40 * t), int(160 - 50 * (t - 0.6)), 70)
        draw.line((0, y, size, y), fill=sky if y < 200 else grass)
    draw.ellipse((262, 24, 306, 68), fill=(250, 220, 90))
    draw.rectangle((50, 130, 140, 215), fill=(205, 190, 165))
    draw.polygon(((40, 130), (95, 85), (150, 130)), fill=(150, 60, 50))
    draw.rectangle((66, 150, 86, 172), fill=(90, 130, 170))
    draw.rectangle((108, 165, 128, 215), fill=(100, 65, 40))
    draw.rectangle((228, 150, 240, 225), fill=(105, 75, 50))
    draw.ellipse((195, 85, 275, 165), fill=(50, 115, 55))
    draw.ellipse((165, 252, 215, 276), fill=(70, 50, 40))
    draw.ellipse((206, 240, 228, 260), fill=(70, 50, 40))
    for x in (172, 184, 198, 208):
        draw.rectangle((x, 270, x + 4, 290), fill=(70, 50, 40))
    return image


def patch_features(image: Image.Image) -> torch.Tensor:
    """(1, N, 3 * PATCH * PATCH) colours of each patch, less the scene's average colour."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size[::-1], 3).float() / 255
    pixels = pixels - pixels.mean((0, 1))
    return pixels.unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).flatten(2).flatten(0, 1).unsqueeze(0)


def outline(image: Image.Image, important: set[int], diverse: set[int]) -> Image.Image:
    """The image enlarged, with kept patches outlined in the two colours and the others faded."""
    side = PATCH * SCALE
    shown = image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST)
    faded = Image.blend(shown, Image.new("RGB", shown.size, "white"), 0.72)
    draw = ImageDraw.Draw(faded)
    for patch in sorted(important | diverse):
        x, y = patch % SIDE * side, patch // SIDE * side
        faded.paste(shown.crop((x, y, x + side, y + side)), (x, y))
        draw.rectangle(
            (x, y, x + side - 1, y + side - 1), outline=IMPORTANT if patch in important else DIVERSE, width=3
        )
    return faded


def draw_figure(budgets: tuple[int, ...]) -> Image.Image:
    """The scene and, for each budget, what is kept of it, with a line of text below each."""
    scene = draw_scene()
    features = patch_features(scene)
    attention = features.norm(dim=-1)
    font = ImageFont.load_default(size=22)
    panels = [(scene.resize((scene.width * SCALE, scene.height * SCALE)), f"all {SIDE * SIDE} patches", None)]
    for budget in budgets:
        kept = set(select_visual_tokens(features, attention, budget)[0].tolist())
        important = set(select_visual_tokens(features, attention, budget // 2, 1.0)[0].tolist())
        text = (f"{len(important)} important", f"{len(kept - important)} diverse")
        panels.append((outline(scene, important, kept - important), f"{budget} kept: ", text))
    width, height = panels[0][0].size
    figure = Image.new("RGB", (len(panels) * (width + 16) - 16, height + 40), "white")
    draw = ImageDraw.Draw(figure)
    for i, (panel, text, parts) in enumerate(panels):
        x = i * (width + 16)
        figure.paste(panel, (x, 0))
        draw.text((x, height + 8), text, fill="black", font=font)
        for part, color in zip(parts or (), (IMPORTANT, DIVERSE)):
            x += draw.textlength(text, font=font)
            text = f"{part}   "
            draw.text((x, height + 8), text, fill=color, font=font)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, nargs="?", default=Path("assets/selection.png"))
    parser.add_argument("--scene", action="store_true", help="draw the scene alone")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure = draw_scene() if args.scene else draw_figure((64, 32))
    figure.save(args.output, optimize=True)
    print(args.output)


if __name__ == "__main__":
    main()
