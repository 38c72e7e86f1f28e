"""Score answers to GQA: the command of `llava.eval.benchmarks.gqa`."""

from llava.eval.benchmarks.gqa import main
from llava.utils import run_command

if __name__ == "__main__":
    run_command(main)
