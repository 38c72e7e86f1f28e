"""Train LLaVA in two stages: first the projector on captions, then projector and language model on instructions.

Liu et al., "Improved Baselines with Visual Instruction Tuning", arXiv 2310.03744. The options are upstream's.
`llava.train.training` does the work; importing it takes seconds, and comes after `run_command` has set up the process.
"""

from __future__ import annotations

from llava.cli import run_command


def train(*args, **options) -> None:
    """See `llava.train.training.train`."""
    from llava.train import training

    training.train(*args, **options)


def main(**options) -> None:
    """Train as the command line says. `options` are keywords of `training.train`."""
    train(**options)

    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()  # without this a process may be aborted when it exits


if __name__ == "__main__":
    run_command(main)
