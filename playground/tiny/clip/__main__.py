"""Train the tiny CLIP on scenes and their captions: python -m playground.tiny.clip --images DIR --scenes N --output DIR

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020. The training
has three parts:

1. Regions: the patches around one object, and the object's name. This is quick, and the model can only solve it by
   recognising shapes and letters.
2. Whole scenes and their captions. The negatives include, for each caption, one that is wrong in a single detail (after
   Yuksekgonul et al., "When and Why Vision-Language Models Behave like Bags-of-Words", arXiv 2210.01936). Regions are
   now taken from the whole picture: the mean of an object's patches and its name, or one patch and its place. They make
   a patch's features tell what it is part of and where it is (after Zhong et al., "RegionCLIP", arXiv 2112.09106).
3. Single patches as LLaVA reads them, from the layer before the last, and the words that describe them. Before this
   part a linear probe finds the shape that a patch is part of in 80 % of the patches, and the word in 23 %.

An interrupted run continues from its last state.
"""

import logging
import os
from pathlib import Path

from llava.cli import run_command
from playground.tiny.options import at_least, command_parser


def main() -> None:
    parser = command_parser("clip", __doc__)
    parser.add_argument("--images", type=Path, required=True, help="pictures of the training scenes, by seed")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint and the training's state")
    parser.add_argument("--scenes", type=at_least(1), required=True, help="training scenes")
    parser.add_argument("--region-steps", type=at_least(0), default=1500, help="steps on regions alone (1500)")
    parser.add_argument("--scene-steps", type=at_least(0), default=650, help="steps on regions and whole scenes (650)")
    parser.add_argument("--patch-steps", type=at_least(0), default=400, help="steps on single patches as well (400)")
    parser.add_argument("--batch-size", type=at_least(1), default=128, help="pictures of a step (128)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="the highest (0.0015)")
    workers = max(1, (os.cpu_count() or 2) - 1)
    parser.add_argument(
        "--workers", type=at_least(0), default=workers, help=f"processes that read pictures ({workers})"
    )
    parser.add_argument("--save-steps", type=at_least(1), default=100, help="steps from one state to the next (100)")
    args = parser.parse_args()

    from playground.tiny.clip.training import train

    logging.getLogger("playground.tiny").setLevel(logging.INFO)
    train(args)


if __name__ == "__main__":
    run_command(main)
