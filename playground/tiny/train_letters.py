"""Train the checkpoint that playground.tiny.letters wrote: python -m playground.tiny.train_letters [OPTION...]

The options are those of llava.train.train, the optimizer is that of playground.tiny.train. The weights that find
letters stay fixed, except the query that reads the answer's word and the output that says the letter. They are so small
that steps of the size that the other weights need would destroy them.
"""

from llava.cli import run_command
from playground.tiny.options import command_parser


def main() -> None:
    command_parser("train_letters", __doc__, allow_abbrev=False).parse_known_args()  # --help

    from llava.train import train
    from playground.tiny.letters.fixed import FixedParts
    from playground.tiny.muon import MuonTrainer

    train.main(callbacks=[FixedParts()], trainer_class=MuonTrainer)


if __name__ == "__main__":
    run_command(main)
