"""Time, memory and arithmetic of one model at several budgets of visual tokens, side by side in one run.

python -m llava.bench --shape llava-v1.5-7b --visual_token_num 192 128 64 32
python -m llava.bench --model-path CHECKPOINT --pruning_method vispruner divprune fastv --visual_token_num 64
python -m llava.bench --shape qwen2.5-vl-7b --layers 4 --picture-tokens 256 1024 4096 --shares 0.5 0.25 0.1

The unpruned model is the first row. All rows take turns, after warm-up; what is printed is the median of the rounds.
A host is a model of transformers that `llava.prune` prunes, with random weights; it has a table for each picture. Its
name in lower case is a shape too: `--shape qwen2.5-vl-7b` is `--host Qwen2.5-VL-7B`.
"""

import argparse
from dataclasses import replace

from llava.bench.shapes import HOSTS, SHAPES
from llava.cli import CommandParser, output_folder, run_command
from llava.constants import PATCH_MERGE_TYPES
from llava.errors import InputError
from llava.files import atomic_writer, write_json
from llava.inference.options import add_compile_argument, pruning_grid
from llava.pruning.method import NONE
from llava.pruning.settings import NAMES, Settings, add_settings_arguments
from llava.vision.grids import is_anyres

DTYPES = ("float16", "bfloat16", "float32")
VISUAL_TOKENS = [192, 128, 64, 32]
PICTURE_TOKENS, SHARES = [256, 1024, 4096], [0.5, 0.25, 0.1]
OF_LLAVA = ("visual_token_num", "mm_patch_merge_type", "image_grid_pinpoints", "compile")
OF_HOSTS = ("picture_tokens", "shares")


def parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model-path", help="checkpoint folder or hub id")
    hosts = {name.lower(): name for name in HOSTS}
    model.add_argument("--shape", choices=[*SHAPES, *hosts], help="random weights of this shape, not a checkpoint's")
    model.add_argument("--host", choices=HOSTS, help="random weights of a model of transformers, pruned by `prune`")
    parser.add_argument("--picture-tokens", type=int, nargs="+", help=f"of a host's pictures ({_said(PICTURE_TOKENS)})")
    parser.add_argument("--shares", type=float, nargs="+", help=f"that a host keeps of them ({_said(SHARES)})")
    parser.add_argument("--mm_patch_merge_type", choices=PATCH_MERGE_TYPES, help="how a checkpoint's crops are joined")
    parser.add_argument("--image_grid_pinpoints", help="such as '[[672, 672]]': that picture, in crops")
    add_settings_arguments(parser, several=("visual_token_num", "pruning_method"))
    parser.set_defaults(visual_token_num=None)
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
    said = f"folder for {', '.join(files)}; of a host bench_N.png for pictures of N tokens"
    parser.add_argument("--output", type=output_folder(*files), help=said)
    args = parser.parse_args()
    if args.shape in hosts:
        args.host, args.shape = hosts[args.shape], None
    if min(args.prompt_tokens - 1, args.answer_tokens - 1, args.rounds, args.warmup + 1) < 1:
        raise InputError("prompt-tokens and answer-tokens must be at least 2, rounds at least 1, warmup at least 0")
    if min(args.batch_size, 1 if args.layers is None else args.layers) < 1:
        raise InputError("batch-size and layers must be at least 1")
    if args.layers and args.model_path:
        raise InputError("--layers goes with --shape and --host: a checkpoint has all of its layers")
    for name in OF_LLAVA if args.host else OF_HOSTS:
        if getattr(args, name):
            raise InputError(f"{name} is not for a host" if args.host else f"{name} is for a host alone")
    if args.host:
        args.picture_tokens, args.shares = args.picture_tokens or PICTURE_TOKENS, args.shares or SHARES
        if min(args.picture_tokens) < 1:
            raise InputError("picture-tokens must be at least 1")
    args.visual_token_num = args.visual_token_num or VISUAL_TOKENS
    return args


def _said(values: list) -> str:
    return " ".join(map(str, values))


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


def tables_of_llava(args: argparse.Namespace) -> list[tuple[dict, list[dict]]]:
    """What was measured, and the rows of it."""
    from llava.bench.measure import make_job, measure

    model, side, grid = make_model(args)
    model.records = args.compile
    crops = 1 if grid is None else 1 + grid[0] * grid[1]
    job = make_job(side, crops, grid, args.prompt_tokens, model, args.answer_tokens, args.batch_size)
    asked = [replace(each, visual_token_num=None) if each.is_blind else each for each in pruning_grid(vars(args))]
    asked = [each for each in dict.fromkeys(asked) if each.prunes or each.is_blind]
    settings = [Settings(pruning_method=NONE), *asked]
    own = {"layers": model.config.num_hidden_layers, "crops": crops, "compiled": args.compile}
    return [(_about(args, model, own), measure(model, job, settings, args.rounds, args.warmup))]


def tables_of_host(args: argparse.Namespace) -> list[tuple[dict, list[dict]]]:
    """The same of each picture. Raises InputError for settings that a model of transformers cannot have."""
    import torch

    from llava.bench.hosts import build_host, make_host_job, measure_host
    from llava.integrations.transformers.budget import Budget

    others = {name: getattr(args, name) for name in NAMES}
    budgets = [
        others | {"visual_token_num": share, "pruning_method": method}
        for method in args.pruning_method
        for share in args.shares
        if share != 1  # the first row is that
    ]
    budgets.insert(0, others | {"visual_token_num": 1.0, "pruning_method": NONE})
    for budget in budgets:
        Budget.from_options(**budget)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = getattr(torch, args.dtype or ("float32" if device.type == "cpu" else "float16"))
    model = build_host(HOSTS[args.host], args.layers, device, dtype, args.attn_implementation)
    layers = model.config.get_text_config().num_hidden_layers
    tables = []
    for number in args.picture_tokens:
        job = make_host_job(model, number, args.prompt_tokens, args.answer_tokens, args.batch_size)
        about = _about(args, model, {"layers": layers, "picture_tokens": number})
        tables.append((about, measure_host(model, job, budgets, args.rounds, args.warmup)))
    return tables


def _about(args: argparse.Namespace, model, own: dict) -> dict:
    """On what and how it was measured."""
    from llava.bench.report import machine

    return {
        "model": args.shape or args.host or args.model_path,
        "weights": "checkpoint" if args.model_path else "random",
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": args.attn_implementation,
        **own,
        "batch": args.batch_size,
        "prompt_text_tokens": args.prompt_tokens,
        "answer_tokens": args.answer_tokens,
        "rounds": args.rounds,
        **machine(model.device),
    }


def main() -> None:
    args = parse()
    tables = tables_of_host(args) if args.host else tables_of_llava(args)
    from llava.bench.report import table
    from llava.eval.report.plots import draw_bench

    text = "\n\n".join(table(about, rows) for about, rows in tables)
    print(text)
    if args.output is None:
        return
    whole = [{**about, "rows": rows} for about, rows in tables]
    write_json(args.output / "bench.json", whole if args.host else whole[0], sort_keys=False)
    with atomic_writer(args.output / "bench.md") as file:
        file.write(text + "\n")
    for about, rows in tables:
        draw_bench(about, rows, args.output / (f"bench_{about['picture_tokens']}.png" if args.host else "bench.png"))


if __name__ == "__main__":
    run_command(main)
