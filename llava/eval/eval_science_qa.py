"""Score answers to ScienceQA: the command of `llava.eval.benchmarks.science_qa`."""

from llava.eval.benchmarks.science_qa import main
from llava.utils import run_command

if __name__ == "__main__":
    run_command(main)
