"""Score answers to MME: the command of `llava.eval.benchmarks.mme`."""

from llava.cli import run_command
from llava.eval.benchmarks.mme import main

if __name__ == "__main__":
    run_command(main)
