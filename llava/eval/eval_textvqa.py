"""Score answers to TextVQA: the command of `llava.eval.benchmarks.textvqa`."""

from llava.cli import run_command
from llava.eval.benchmarks.textvqa import main

if __name__ == "__main__":
    run_command(main)
