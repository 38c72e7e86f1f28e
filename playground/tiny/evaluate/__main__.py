"""Measure accuracy on the bundled benchmarks at different numbers of visual tokens.

python -m playground.tiny.evaluate --model-path CHECKPOINT --data-dir DIR --output DIR

One table compares VisPruner, the other methods and random patches (five seeds) at every budget, and three shares of
important patches at one budget. A second table gives the accuracy of each kind of question with all visual tokens,
next to that of always giving the commonest answer. Answers are written and scored as the recipes do it. An interrupted
run continues with the settings that are left.
"""

from pathlib import Path

from llava.cli import run_command
from playground.tiny.options import at_least, command_parser


def main() -> None:
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("--model-path", required=True, help="the checkpoint")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that playground.tiny.benchmarks wrote")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder of scores.json and tables.json",
    )
    parser.add_argument("--batch-size", type=at_least(1), default=32, help="questions answered at once (32)")
    parser.add_argument(
        "--processes", type=at_least(1), help="settings run at once (1 with a GPU, one for each core without)"
    )
    args = parser.parse_args()

    from playground.tiny.evaluate.run import evaluate_all

    print(evaluate_all(args.model_path, args.data_dir, args.output, args.batch_size, args.processes))


if __name__ == "__main__":
    run_command(main)
