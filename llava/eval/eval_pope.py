"""Score answers to POPE: the command of `llava.eval.benchmarks.pope`."""

from llava.cli import run_command
from llava.eval.benchmarks.pope import main

if __name__ == "__main__":
    run_command(main)
