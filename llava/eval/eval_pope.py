"""Score answers to POPE: the command of `llava.eval.benchmarks.pope`."""

from llava.eval.benchmarks.pope import main
from llava.utils import run_command

if __name__ == "__main__":
    run_command(main)
