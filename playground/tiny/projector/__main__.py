"""Make the projector that stage 1 starts from: python -m playground.tiny.projector --clip DIR --llama DIR --output FILE

The projector learns to turn the features of a patch into the sum of the embeddings of the words that describe the
patch. The language model was trained on such sums, so what it has learned about words applies to visual tokens too.
"""

from pathlib import Path

from llava.cli import output_file, run_command
from playground.tiny.options import command_parser, make_folder


def main() -> None:
    parser = command_parser("projector", __doc__)
    parser.add_argument("--clip", type=Path, required=True, help="checkpoint of playground.tiny.clip")
    parser.add_argument("--llama", type=Path, required=True, help="checkpoint of playground.tiny.language_model")
    parser.add_argument("--output", type=output_file, required=True, help="a mm_projector.bin")
    args = parser.parse_args()
    make_folder(args.output.parent)

    import torch

    from playground.tiny.projector.fit import fit_projector

    weights, explained = fit_projector(args.clip, args.llama)
    torch.save(weights, args.output)
    print(f"{args.output}: explains {100 * explained:.1f} % of the variance of the targets of patches of objects")


if __name__ == "__main__":
    run_command(main)
