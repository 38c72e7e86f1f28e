"""Train LLaVA in its two stages: the projector alone on captions, then projector and language model on instructions.

Liu et al., "Improved Baselines with Visual Instruction Tuning", arXiv 2310.03744. The flags are upstream's. The
training itself is in `training`, which is imported once the options' names are known to be right.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from llava.train.option_names import check_names
from llava.utils import run_command

if TYPE_CHECKING:
    from transformers import TrainerCallback


def train(args: list[str] | None = None, callbacks: list[TrainerCallback] | None = None) -> None:
    """Train as the command line, or `args`, says; see `training.train`."""
    check_names(sys.argv[1:] if args is None else list(map(str, args)))
    from llava.train import training

    training.train(args, callbacks)


def main(callbacks: list[TrainerCallback] | None = None) -> None:
    train(callbacks=callbacks)

    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()  # a process that exits with it alive may be aborted


if __name__ == "__main__":
    run_command(main)
