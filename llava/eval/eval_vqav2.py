"""Score answers to VQAv2: the command of `llava.eval.benchmarks.vqav2`."""

from llava.cli import run_command
from llava.eval.benchmarks.vqav2 import main

if __name__ == "__main__":
    run_command(main)
