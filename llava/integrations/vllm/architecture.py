"""The architecture under which vLLM prunes a checkpoint's pictures, for `scripts/serve.sh`.

    python -m llava.integrations.vllm.architecture Qwen/Qwen2.5-VL-7B-Instruct

It says `--hf-overrides` that name it, or nothing for a checkpoint that is no host's: `prepare` is for LLaVA's.
"""

from __future__ import annotations

import argparse
import json

from llava.checkpoints.folders import find_folder
from llava.cli import CommandParser, run_command
from llava.files import read_json_object
from llava.integrations.vllm import HOSTS, architecture_of


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="CKPT", help="checkpoint folder or hub id")
    config = find_folder(parser.parse_args().source, "checkpoint") / "config.json"
    named = read_json_object(config, "config").get("architectures") if config.exists() else None
    if isinstance(named, list) and (host := next(iter(named), None)) in HOSTS:
        print(json.dumps({"architectures": [architecture_of(host)]}))


if __name__ == "__main__":
    run_command(main)
