"""Time, memory and arithmetic of one model at several budgets of visual tokens, side by side in one run.

python -m llava.bench --shape llava-v1.5-7b --visual_token_num 192 128 64 32
python -m llava.bench --model-path CHECKPOINT --pruning_method vispruner divprune fastv --visual_token_num 64

The unpruned model is the first row. All rows take turns, after warm-up; what is printed is the median of the rounds.
"""

import argparse
from dataclasses import replace

from llava.bench.shapes import SHAPES
from llava.cli import CommandParser, output_folder, run_command
from llava.constants import PATCH_MERGE_TYPES
from llava.errors import InputError
from llava.files import atomic_writer, write_json
from llava.inference.options import add_compile_argument, pruning_grid
from llava.pruning.method import NONE
from llava.pruning.settings import Settings, add_settings_arguments
from llava.vision.grids import is_anyres

DTYPES = ("float16", "bfloat16", "float32")


def parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model-path", help="checkpoint folder or hub id")
    model.add_argument("--shape", choices=SHAPES, help="random weights of this shape instead of a checkpoint")
    parser.add_argument("--mm_patch_merge_type", choices=PATCH_MERGE_TYPES, help="how a checkpoint's crops are joined")
    parser.add_argument("--image_grid_pinpoints", help="such as '[[672, 672]]': that picture, in crops")
    add_settings_arguments(parser, several=("visual_token_num", "pruning_method"))
    parser.set_defaults(visual_token_num=[192, 128, 64, 32])
    parser.add_argument("--layers", type=int, help="of the language model, instead of the shape's own number")
    parser.add_argument("--batch-size", type=int, default=1, help="prompts at once, each with a picture (1)")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="text tokens of the prompt (64)")
    parser.add_argument("--answer-tokens", type=int, default=32, help="tokens of the answer (32)")
    parser.add_argument("--rounds", type=int, default=10, help="times that everything is measured (10)")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before that, which do not count (3)")
    parser.add_argument("--dtype", choices=DTYPES, help="float16, on the CPU float32")
    parser.add_argument("--attn_implementation", default="sdpa", help="as in transformers (sdpa)")
    add_compile_argument(parser)
    parser.add_argument("--device", help="cuda, or cpu where there is no GPU")
    files = ("bench.json", "bench.md", "bench.png")
    parser.add_argument("--output", type=output_folder(*files), help=f"folder for {', '.join(files)}")
    args = parser.parse_args()
    if min(args.prompt_tokens - 1, args.answer_tokens - 1, args.rounds, args.warmup + 1) < 1:
        raise InputError("prompt-tokens and answer-tokens must be at least 2, rounds at least 1, warmup at least 0")
    if min(args.batch_size, 1 if args.layers is None else args.layers) < 1:
        raise InputError("batch-size and layers must be at least 1")
    if args.layers and not args.shape:
        raise InputError("--layers goes with --shape: a checkpoint has all of its layers")
    return args


def make_model(args: argparse.Namespace) -> tuple:
    """The model and its picture: pixels on a side of a crop, and the grid of crops (across, down) or None."""
    import torch

    from llava.bench.random_model import build, build_text_side
    from llava.checkpoints.folders import get_model_name_from_path
    from llava.model.builder import load_pretrained_model
    from llava.vision.grids import read_grid_pinpoints

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    default = "float32" if device.type == "cpu" else "float16"
    dtype = getattr(torch, args.dtype or default)
    if args.shape:
        shape = SHAPES[args.shape]
        shape = replace(shape, layers=args.layers or shape.layers)
        model = build(shape, device, dtype, args.attn_implementation)
        settings = [Settings(1, pruning_method=name) for name in args.pruning_method]
        if any("text_embeds" in setting.question_views for setting in settings):
            model.get_vision_tower().text_side = build_text_side(shape, device)
        return model, shape.image_size, shape.grid
    grid = read_grid_pinpoints(args.image_grid_pinpoints)
    options = {"mm_patch_merge_type": args.mm_patch_merge_type, "image_grid_pinpoints": grid}
    name = get_model_name_from_path(args.model_path)
    model = load_pretrained_model(
        args.model_path,
        None,
        name,
        device=str(device),
        torch_dtype=dtype,
        attn_implementation=args.attn_implementation,
        **{key: value for key, value in options.items() if value is not None},
    ).model
    side = model.get_vision_tower().image_size
    if not is_anyres(model.config.image_aspect_ratio):
        return model, side, None
    width, height = max(model.config.image_grid_pinpoints, key=lambda size: size[0] * size[1])
    return model, side, (width // side, height // side)


def main() -> None:
    args = parse()
    from llava.bench.measure import make_job, measure
    from llava.bench.report import draw, machine, table

    model, side, grid = make_model(args)
    model.compile_decoding = args.compile_decoding
    crops = 1 if grid is None else 1 + grid[0] * grid[1]
    job = make_job(side, crops, grid, args.prompt_tokens, model, args.answer_tokens, args.batch_size)
    asked = [replace(each, visual_token_num=None) if each.is_blind else each for each in pruning_grid(vars(args))]
    asked = [each for each in dict.fromkeys(asked) if each.prunes or each.is_blind]
    settings = [Settings(pruning_method=NONE), *asked]
    rows = measure(model, job, settings, args.rounds, args.warmup)
    about = {
        "model": args.shape or args.model_path,
        "weights": "random" if args.shape else "checkpoint",
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": args.attn_implementation,
        "layers": model.config.num_hidden_layers,
        "crops": crops,
        "batch": args.batch_size,
        "prompt_text_tokens": args.prompt_tokens,
        "answer_tokens": args.answer_tokens,
        "compiled": args.compile_decoding,
        "rounds": args.rounds,
        **machine(model.device),
    }
    text = table(about, rows)
    print(text)
    if args.output is not None:
        write_json(args.output / "bench.json", {**about, "rows": rows}, sort_keys=False)
        with atomic_writer(args.output / "bench.md") as file:
            file.write(text + "\n")
        draw(about, rows, args.output / "bench.png")


if __name__ == "__main__":
    run_command(main)
