"""Convert a LLaVA checkpoint between LLaVA's own layout and that of transformers' own classes (llava-hf), both ways.

    llava convert liuhaotian/llava-v1.5-7b llava-1.5-7b-hf --to hf
    llava convert llava-hf/llava-v1.6-mistral-7b-hf llava-v1.6-mistral-7b --to llava

The weights stay as they are, bit for bit. To transformers' layout the tokenizer gets `<image>` and `<pad>` and the
embeddings rows for them, copies of the row of `<unk>`; to LLaVA's layout these rows go. DST appears when it is
complete, and no existing one is overwritten.
"""

import argparse
import re

from llava.checkpoints.folders import find_folder
from llava.cli import CommandParser, new_folder, run_command

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def size(text: str) -> int:
    """Bytes of a size such as 5GB."""
    found = re.fullmatch(r"([1-9]\d{0,11})(|KB|MB|GB)", text.upper())
    if not found:
        raise argparse.ArgumentTypeError(f"must be a number of bytes, KB, MB or GB such as 5GB, got {text!r}")
    return int(found[1]) * _UNITS[found[2]]


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC", help="checkpoint folder or hub id")
    parser.add_argument("target", metavar="DST", type=new_folder, help="folder to write, which must not exist")
    parser.add_argument("--to", choices=("hf", "llava"), required=True, help="layout of DST")
    parser.add_argument("--max-shard-size", type=size, default="5GB", help="of a weight file (5GB)")
    args = parser.parse_args()
    find_folder(args.source, "checkpoint")  # report a wrong name before torch is imported

    from llava.model.converting import convert_checkpoint

    convert_checkpoint(args.source, args.target, args.to, args.max_shard_size)
    print(args.target)


if __name__ == "__main__":
    run_command(main)
