"""Score answers to MME: the command of `llava.eval.benchmarks.mme`."""

from llava.eval.benchmarks.mme import main
from llava.utils import run_command

if __name__ == "__main__":
    run_command(main)
