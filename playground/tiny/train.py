"""Train a stage 2 of the tiny model, with Muon for the matrices: python -m playground.tiny.train [OPTION...]

The options are those of llava.train.train.
"""

from llava.cli import run_command
from playground.tiny.options import command_parser


def main() -> None:
    command_parser("train", __doc__, allow_abbrev=False).parse_known_args()  # --help

    from llava.train import train
    from playground.tiny.muon import MuonTrainer

    train.main(trainer_class=MuonTrainer)


if __name__ == "__main__":
    run_command(main)
