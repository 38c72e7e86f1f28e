"""Score answers to SEED-Bench: the command of `llava.eval.benchmarks.seed`."""

from llava.cli import run_command
from llava.eval.benchmarks.seed import main

if __name__ == "__main__":
    run_command(main)
