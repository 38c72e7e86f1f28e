"""Score answers to MMBench: the command of `llava.eval.benchmarks.mmbench`."""

from llava.eval.benchmarks.mmbench import main
from llava.utils import run_command

if __name__ == "__main__":
    run_command(main)
