"""What pruning itself costs: the selection against a transcription of the paper's rounds, and the importance.

python -m scripts.benchmarks.selection [--device cuda] [--batch-sizes 1 32] [--tower llava-v1.5-7b]
python -m scripts.benchmarks.selection --device cuda --methods --importance siglip-so400m-384 qwen2.5-vl

The transcription multiplies the features of both halves anew in every round, as the original code does; it is measured
in float32, as the original computes, and in float64, as the selection here does. With --methods the selections of all
methods are measured alongside VisPruner; with --importance that of towers without [CLS], alongside the tower and
one call of its attention. Everything takes turns.
"""

import argparse
from itertools import product

from llava.bench.shapes import SHAPES
from llava.cli import CommandParser, output_file, run_command
from llava.errors import InputError
from llava.files import write_json

TOWERS = ("siglip-so400m-384", "qwen2.5-vl", "siglip-tiny")


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cuda, or cpu where there is no GPU")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--patches", type=int, default=576)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--visual_token_num", type=int, default=64)
    parser.add_argument("--tower", choices=SHAPES, help="also a tower of this shape, with and without [CLS] attention")
    parser.add_argument("--methods", action="store_true", help="also the selection of every method, vispruner first")
    parser.add_argument("--importance", nargs="+", choices=TOWERS, default=[], help="also that of such towers")
    parser.add_argument("--rounds", type=int, default=20, help="times that each variant is measured (20)")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before that, which do not count (3)")
    parser.add_argument("--output", type=output_file, help="results as JSON")
    args = parser.parse_args()
    if min(*args.batch_sizes, args.patches, args.channels, args.visual_token_num, args.rounds, args.warmup + 1) < 1:
        raise InputError("sizes and rounds must be at least 1, warmup at least 0")
    import torch

    from llava.bench.report import machine
    from scripts.benchmarks.importance_cost import importances
    from scripts.benchmarks.method_cost import methods
    from scripts.benchmarks.selection_cost import selections, take_turns, towers

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    about = machine(device)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    results = {}
    for batch in args.batch_sizes:
        variants = selections(batch, args.patches, args.channels, args.visual_token_num, device)
        results[f"selection, batch {batch}"] = take_turns(variants, device, args.rounds, args.warmup)
    for batch in args.batch_sizes if args.methods else []:
        variants = methods(batch, args.patches, args.channels, args.visual_token_num, device)
        results[f"methods, batch {batch}"] = take_turns(variants, device, args.rounds, args.warmup)
    for batch in args.batch_sizes if args.tower else []:
        variants = towers(SHAPES[args.tower], batch, device)
        results[f"tower, batch {batch}"] = take_turns(variants, device, args.rounds, args.warmup)
    for tower, batch in product(args.importance, args.batch_sizes):
        variants = importances(tower, batch, device)
        results[f"importance, {tower}, batch {batch}"] = take_turns(variants, device, args.rounds, args.warmup)
    for name, variants in results.items():
        slowest = next(iter(variants.values()))["median"]
        print(name)
        for variant, cell in variants.items():
            spread = f"({cell['least']:.3f} to {cell['most']:.3f})"
            print(f"  {variant:30} {cell['median']:10.3f} ms {spread:24} {slowest / cell['median']:.3f} times as fast")
    if args.output:
        write_json(args.output, {**about, "results": results}, sort_keys=False)


if __name__ == "__main__":
    run_command(main)
