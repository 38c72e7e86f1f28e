"""What pruning itself costs: the selection against a transcription of the paper's rounds, and the [CLS] attention.

python -m llava.bench.selection [--device cuda] [--batch-sizes 1 32] [--tower llava-v1.5-7b]

The transcription multiplies the features of both halves anew in every round, as the original code does; it is measured
in float32, as the original computes, and in float64, as the selection here does. Everything takes turns.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from llava.bench.measure import Clock
from llava.bench.report import machine
from llava.bench.shapes import SHAPES, build_tower
from llava.eval.files import write_json
from llava.pruning import select_visual_tokens
from llava.pruning.duplicates import MAX_DROPPED_PER_ROUND
from llava.utils import CommandParser, InputError, run_command


def transcription(
    features: torch.Tensor, cls_attention: torch.Tensor, number: int, important_ratio: float = 0.5
) -> torch.LongTensor:
    """Indices (B, T) by arXiv 2412.01818, section 3, step by step; arguments as those of `select_visual_tokens`."""
    important_num = int(number * important_ratio)
    by_attention = cls_attention.argsort(dim=1, descending=True, stable=True)
    important, left = by_attention[:, :important_num], by_attention[:, important_num:]
    unit = F.normalize(features, dim=-1)
    image = torch.arange(len(features), device=features.device).unsqueeze(1)
    while left.shape[1] > number - important_num:
        a, b = left[:, 0::2], left[:, 1::2]
        drop = min(MAX_DROPPED_PER_ROUND, left.shape[1] - (number - important_num), a.shape[1])
        score = (unit[image, a] @ unit[image, b].transpose(1, 2)).amax(dim=2)
        rest = score.argsort(dim=1, descending=True, stable=True)[:, drop:]
        left = torch.cat([a.gather(1, rest), b], dim=1)
    return torch.cat([important, left], dim=1).sort(dim=1).values


@torch.inference_mode()
def take_turns(
    ways: dict[str, Callable], device: torch.device, rounds: int, warmup: int
) -> dict[str, dict[str, float]]:
    """Median, least and most milliseconds of each way, which take turns after warm-up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warmup + rounds):
        for name, way in ways.items():
            clock = Clock(device)
            clock.mark()
            way()
            clock.mark()
            if turn >= warmup:
                times[name] += clock.milliseconds()
            else:
                clock.milliseconds()
    return {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name, values in times.items()
    }


def selections(batch: int, patches: int, channels: int, number: int, device: torch.device) -> dict[str, Callable]:
    """The ways of selecting from one random batch."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, patches, channels, generator=generator).to(device)
    attention = torch.rand(batch, patches, generator=generator).to(device)
    return {
        "transcription, float64": lambda: transcription(features.double(), attention, number),
        "transcription, float32": lambda: transcription(features, attention, number),
        "select_visual_tokens": lambda: select_visual_tokens(features, attention, number),
    }


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--patches", type=int, default=576)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--visual_token_num", type=int, default=64)
    parser.add_argument("--tower", choices=SHAPES, help="also a tower of this shape, with and without [CLS] attention")
    parser.add_argument("--rounds", type=int, default=20, help="times that each way is measured (20)")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before that, which do not count (3)")
    parser.add_argument("--output", type=Path, help="results as JSON")
    args = parser.parse_args()
    if min(*args.batch_sizes, args.patches, args.channels, args.visual_token_num, args.rounds, args.warmup + 1) < 1:
        raise InputError("sizes and rounds must be at least 1, warmup at least 0")
    device = torch.device(args.device)
    about = machine(device)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    results = {}
    for batch in args.batch_sizes:
        ways = selections(batch, args.patches, args.channels, args.visual_token_num, device)
        results[f"selection, batch {batch}"] = take_turns(ways, device, args.rounds, args.warmup)
    if args.tower:
        shape = SHAPES[args.tower]
        tower = build_tower(shape, device, torch.float32 if device.type == "cpu" else torch.float16)
        for batch in args.batch_sizes:
            pixels = torch.randn(batch, 3, shape.image_size, shape.image_size).to(device, tower.dtype)
            ways = {
                "features": lambda pixels=pixels: tower(pixels),
                "features and [CLS] attention": lambda pixels=pixels: tower(pixels, output_attentions=True),
            }
            results[f"tower, batch {batch}"] = take_turns(ways, device, args.rounds, args.warmup)
    for name, ways in results.items():
        slowest = next(iter(ways.values()))["median"]
        print(name)
        for way, cell in ways.items():
            spread = f"({cell['least']:.3f} to {cell['most']:.3f})"
            print(f"  {way:30} {cell['median']:10.3f} ms {spread:24} {slowest / cell['median']:.3f} times as fast")
    if args.output:
        write_json(args.output, {**about, "results": results})


if __name__ == "__main__":
    run_command(main)
