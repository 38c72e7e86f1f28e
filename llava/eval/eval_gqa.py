"""Score answers to GQA: the command of `llava.eval.benchmarks.gqa`."""

from llava.cli import run_command
from llava.eval.benchmarks.gqa import main

if __name__ == "__main__":
    run_command(main)
