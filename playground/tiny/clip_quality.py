"""Measure on held-out scenes what the tiny CLIP has learned: python -m playground.tiny.clip_quality CLIP_FOLDER

Prints, as JSON, the share of 256 pictures that find their own caption among all 256, and how much of the [CLS]
attention that VisPruner reads falls on the patches of objects, compared with the share of those patches.
"""

import json
from pathlib import Path

from llava.cli import run_command
from playground.tiny.options import command_parser


def main() -> None:
    parser = command_parser("clip_quality", __doc__)
    parser.add_argument("folder", type=Path, help="the CLIP checkpoint")
    folder = parser.parse_args().folder

    from playground.tiny.clip.quality import measure

    print(json.dumps({name: round(value, 4) for name, value in measure(folder).items()}, indent=1))


if __name__ == "__main__":
    run_command(main)
