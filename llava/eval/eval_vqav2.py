"""Score answers to VQAv2: the command of `llava.eval.benchmarks.vqav2`."""

from llava.eval.benchmarks.vqav2 import main
from llava.utils import run_command

if __name__ == "__main__":
    run_command(main)
