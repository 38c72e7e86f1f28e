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
QUESTION, ANSWER = "What does the sign say?", "park"
SHORT = "Answer the question using a single word or phrase."
PANEL, GAP, LINE = 504, 12, 48
IMPORTANT, DIVERSE = (213, 94, 0), (0, 114, 178)  # of Okabe and Ito: colour-blind readers tell them apart
RIGHT, WRONG = (0, 130, 90), (190, 0, 60)


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


def draw_figure(
    loaded: tuple, image: Image.Image, conv_mode: str, query: str, budgets: list[int], right: str | None = None
) -> Image.Image:
    """The picture with all patches and, at each budget, with those kept; the question above, below each the answer.

    `right` is the right answer: others are marked as wrong. Without it none is marked.
    """
    from llava.vision.pixels import process_images

    _, model, image_processor, _ = loaded
    pixels = process_images([image], image_processor, model.config)
    if isinstance(pixels, list) or pixels.ndim != 4 or image.width != image.height:
        raise InputError("only a square picture that the model sees whole can be drawn")
    side, font = model.get_vision_tower().num_patches_per_side, ImageFont.load_default(size=36)
    figure = Image.new("RGB", ((len(budgets) + 1) * (PANEL + GAP) - GAP, PANEL + 3 * LINE), "white")
    draw = ImageDraw.Draw(figure)
    draw.text((0, 0), query, fill="black", font=font)
    for place, word, color in ((2, "important", IMPORTANT), (3, "diverse", DIVERSE)):
        if len(budgets) >= place:
            draw.text((place * (PANEL + GAP), 0), f"kept as {word}", fill=color, font=font)
    for i, said in enumerate(answers(loaded, image, conv_mode, query, [None, *budgets])):
        x, shown, caption = i * (PANEL + GAP), image.resize((PANEL, PANEL), Image.Resampling.LANCZOS), ["all patches"]
        if i:
            important, diverse = kept_patches(model, pixels, budgets[i - 1])
            shown = outline(image, side, important, diverse)
            caption = [f"{budgets[i - 1]} of {side * side}: ", str(len(important)), " + ", str(len(diverse))]
        figure.paste(shown, (x, LINE))
        is_wrong = right is not None and said.strip(" .").lower() != right.lower()
        verdict = f"  {'wrong' if is_wrong else 'right'}" if right is not None else ""
        for row, parts, colors in (
            (1, caption, ("black", IMPORTANT, "black", DIVERSE)),
            (2, [said, verdict], ("black", WRONG if is_wrong else RIGHT)),
        ):
            place = x
            for part, color in zip(parts, colors):
                draw.text((place, PANEL + row * LINE), part, fill=color, font=font)
                place += draw.textlength(part, font=font)
    return figure


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--model-path", default="playground/checkpoints/llava-tiny")
    parser.add_argument("--image-file", type=Path, default=SCENE)
    parser.add_argument("--query", default=QUESTION)
    parser.add_argument("--answer", help="the right answer: others are marked (that of the default question)")
    parser.add_argument("--budgets", type=visual_token_num, nargs="+", default=[32, 16, 8])
    parser.add_argument("--output", type=output_file, default=Path("assets/selection.png"))
    args = parser.parse_args()
    from llava.vision.pictures import load_image

    image = load_image(args.image_file, as_displayed=True)
    loaded = ModelOptions(args.model_path, device="cpu").load()
    right = args.answer or (ANSWER if (args.image_file, args.query) == (SCENE, QUESTION) else None)
    figure = draw_figure(loaded, image, loaded.template, args.query, args.budgets, right)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.save(args.output, optimize=True)
    print(args.output)


if __name__ == "__main__":
    run_command(main)
