"""Score answers to SEED-Bench: the command of `llava.eval.benchmarks.seed`."""

from llava.eval.benchmarks.seed import main
from llava.utils import run_command

if __name__ == "__main__":
    run_command(main)
