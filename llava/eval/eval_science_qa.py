"""Score answers to ScienceQA: the command of `llava.eval.benchmarks.science_qa`."""

from llava.cli import run_command
from llava.eval.benchmarks.science_qa import main

if __name__ == "__main__":
    run_command(main)
