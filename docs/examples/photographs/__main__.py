"""Draw what each method keeps of real photographs, seen by a pretrained ViT: bash docs/examples/photographs.sh

The ViT is of DINOv2's kind and comes from a package's wheel. It is no CLIP, and no language model reads what is kept.
"""

from pathlib import Path

from llava.cli import CommandParser, output_file, run_command
from llava.errors import InputError
from llava.inference.options import visual_token_num


def main() -> None:
    parser = CommandParser(prog="docs.examples.photographs", description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True, help="the wheel with the ONNX file of the ViT")
    parser.add_argument("--photographs", type=Path, required=True, help="scikit-image's folder data")
    parser.add_argument("--tower", type=Path, required=True, help="folder that the converted ViT is written to")
    parser.add_argument("--output", type=output_file, default=Path("assets/photographs.png"))
    parser.add_argument("--budgets", type=visual_token_num, nargs="+", default=[64, 128], help="the first is drawn")
    parser.add_argument("--layer", type=int, default=-1, help="as mm_vision_select_layer: which one is looked at (-1)")
    parser.add_argument("--seeds", type=int, default=5, help="towers of shuffled weights (5)")
    args = parser.parse_args()
    if args.seeds < 0:
        raise InputError("seeds must be at least 0")

    from docs.examples.photographs.report import run

    run(args)


if __name__ == "__main__":
    run_command(main)
