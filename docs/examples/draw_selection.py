"""Draw which patches of a picture a model keeps, and what it answers: assets/selection.png from the bundled model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from llava.cli import CommandParser, output_file, run_command
from llava.errors import InputError
from llava.inference.options import ModelOptions, visual_token_num
from llava.pruning.settings import Settings

if TYPE_CHECKING:
    import torch

SCENE = Path("playground/data/scenes/mm-vet/images/v1_1.jpg")
SHORT = "Answer the question using a single word or phrase."
PANEL, GAP, LINE = 504, 20, 30
IMPORTANT, DIVERSE = (222, 40, 30), (30, 90, 230)


def kept_patches(model, pixels: torch.Tensor, budget: int) -> tuple[set[int], set[int]]:
    """Important and diverse patches of one picture (1, 3, H, W), as numbers in raster order."""
    from llava.pruning import select
    from llava.pruning.methods.vispruner import METHOD as VISPRUNER_METHOD

    views, pruning = model.get_vision_tower().encode(pixels), Settings(budget, model.important_ratio)
    kept = set(select(views, pruning).patches[0].tolist())
    important = set(VISPRUNER_METHOD.important(views, pruning)[0].tolist())
    return important, kept - important


def outline(image: Image.Image, side: int, important: set[int], diverse: set[int]) -> Image.Image:
    """The square image, `side` patches wide, enlarged; kept patches are outlined in two colours, the others faded."""
    shown = image.resize((PANEL, PANEL), Image.Resampling.LANCZOS)
    faded = Image.blend(shown, Image.new("RGB", shown.size, "white"), 0.75)
    draw, size = ImageDraw.Draw(faded), PANEL // side
    for patch in sorted(important | diverse):
        x, y = patch % side * size, patch // side * size
        faded.paste(shown.crop((x, y, x + size, y + size)), (x, y))
        color = IMPORTANT if patch in important else DIVERSE
        draw.rectangle((x, y, x + size - 1, y + size - 1), outline=color, width=3)
    return faded


def wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """A text in lines that are no wider than a panel."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= PANEL else [*lines, word]
    return lines


def answers(loaded: tuple, image: Image.Image, conv_mode: str, query: str, budgets: list[int | None]) -> list[str]:
    """What the model answers at each budget."""
    from llava.inference import Engine, make_request

    config, pruning = loaded[1].config, loaded[1].pruning
    message = f"{query}\n{SHORT}"
    requests = [
        make_request(message, [image], conv_mode, config, replace(pruning, visual_token_num=budget))
        for budget in budgets
    ]
    return [said.text for said in Engine(loaded).answer(requests, do_sample=False, max_new_tokens=32)]


def draw_figure(loaded: tuple, image: Image.Image, conv_mode: str, query: str, budgets: list[int]) -> Image.Image:
    """The picture with all patches and, at each budget, with those kept; below each the model's answer."""
    from llava.vision.pixels import process_images

    _, model, image_processor, _ = loaded
    pixels = process_images([image], image_processor, model.config)
    if isinstance(pixels, list) or pixels.ndim != 4 or image.width != image.height:
        raise InputError("only a square picture that the model sees whole can be drawn")
    side = model.get_vision_tower().num_patches_per_side
    font = ImageFont.load_default(size=21)
    panels = []
    budgets = [None, *budgets]
    for budget, said in zip(budgets, answers(loaded, image, conv_mode, query, budgets)):
        if budget is None:
            panels.append(
                (image.resize((PANEL, PANEL), Image.Resampling.LANCZOS), (f"all {side * side} patches",), said)
            )
        else:
            important, diverse = kept_patches(model, pixels, budget)
            caption = (f"{budget} of {side * side}: ", f"{len(important)} important  ", f"{len(diverse)} diverse")
            panels.append((outline(image, side, important, diverse), caption, said))
    lines = [wrapped(f"{query} {said}", font) for _, _, said in panels]
    height = PANEL + LINE * (2 + max(map(len, lines)))
    figure = Image.new("RGB", (len(panels) * (PANEL + GAP) - GAP, height), "white")
    draw = ImageDraw.Draw(figure)
    for i, ((panel, caption, _), answer_lines) in enumerate(zip(panels, lines)):
        x = i * (PANEL + GAP)
        figure.paste(panel, (x, 0))
        for part, color in zip(caption, ("black", IMPORTANT, DIVERSE)):
            draw.text((x, PANEL + 6), part, fill=color, font=font)
            x += draw.textlength(part, font=font)
        for j, line in enumerate(answer_lines):
            draw.text((i * (PANEL + GAP), PANEL + 10 + LINE * (j + 1)), line, fill="black", font=font)
    return figure


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--model-path", default="playground/checkpoints/llava-tiny")
    parser.add_argument("--image-file", type=Path, default=SCENE)
    parser.add_argument("--query", default="What does the sign say?")
    parser.add_argument("--budgets", type=visual_token_num, nargs="+", default=[32, 16, 8])
    parser.add_argument("--output", type=output_file, default=Path("assets/selection.png"))
    args = parser.parse_args()
    from llava.vision.pictures import load_image

    image = load_image(args.image_file, as_displayed=True)
    loaded = ModelOptions(args.model_path, device="cpu").load()
    figure = draw_figure(loaded, image, loaded.template, args.query, args.budgets)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.save(args.output, optimize=True)
    print(args.output)


if __name__ == "__main__":
    run_command(main)
