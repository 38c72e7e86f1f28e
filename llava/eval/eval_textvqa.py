"""Score answers to TextVQA: the command of `llava.eval.benchmarks.textvqa`."""

from llava.eval.benchmarks.textvqa import main
from llava.utils import run_command

if __name__ == "__main__":
    run_command(main)
