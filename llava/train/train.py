"""Train LLaVA in two stages: first the projector on captions, then projector and language model on instructions.

Liu et al., "Improved Baselines with Visual Instruction Tuning", arXiv 2310.03744. The options are upstream's.
`llava.train.training` does the work; it is imported after the option names have been checked.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from llava.cli import run_command
from llava.train.option_names import check_names

if TYPE_CHECKING:
    from transformers import TrainerCallback


def train(args: list[str] | None = None, callbacks: list[TrainerCallback] | None = None) -> None:
    """Check the option names on the command line, or in `args`, then call `training.train`."""
    check_names(sys.argv[1:] if args is None else list(map(str, args)))
    from llava.train import training

    training.train(args, callbacks)


def main(callbacks: list[TrainerCallback] | None = None) -> None:
    train(callbacks=callbacks)

    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()  # without this a process may be aborted when it exits


if __name__ == "__main__":
    run_command(main)
