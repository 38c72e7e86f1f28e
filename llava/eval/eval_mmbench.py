"""Score answers to MMBench: the command of `llava.eval.benchmarks.mmbench`."""

from llava.cli import run_command
from llava.eval.benchmarks.mmbench import main

if __name__ == "__main__":
    run_command(main)
