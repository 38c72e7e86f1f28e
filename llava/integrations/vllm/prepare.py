"""Write the folder that vLLM serves a LLaVA checkpoint from: configs, tokenizer and chat template, and links.

    python -m llava.integrations.vllm.prepare liuhaotian/llava-v1.5-7b llava-v1.5-7b-vllm

CKPT is a checkpoint in LLaVA's layout or in that of transformers' own classes. Its weights stay where they are: OUT has
links to them, so that it works as long as they are there. OUT appears when it is complete.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llava.checkpoints.folders import find_folder
from llava.cli import CommandParser, run_command
from llava.vision.grids import read_grid_pinpoints


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="CKPT", help="checkpoint folder or hub id")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if this command wrote it")
    parser.add_argument("--conv-mode", help="prompt template (that of the checkpoint's published figures)")
    parser.add_argument(
        "--mm_patch_merge_type", choices=("flat", "spatial"), help="how crops are joined (the config's)"
    )
    parser.add_argument("--image_grid_pinpoints", help="sizes that a picture may be cut to, such as '[[672, 672]]'")
    args = parser.parse_args()
    grid = read_grid_pinpoints(args.image_grid_pinpoints)
    find_folder(args.source, "checkpoint")  # report a wrong name before torch is imported

    from llava.integrations.vllm.folder import prepare

    options = {"mm_patch_merge_type": args.mm_patch_merge_type, "image_grid_pinpoints": grid}
    overrides = {name: value for name, value in options.items() if value is not None}
    prepare(args.source, args.target, args.conv_mode, overrides, args.overwrite)
    print(args.target)


if __name__ == "__main__":
    run_command(main)
