"""Upstream's place for `python -m llava.eval.submit vqav2`."""

from functools import partial

from llava.cli import run_command
from llava.eval.submit import main as submit

main = partial(submit, "vqav2")

if __name__ == "__main__":
    run_command(main)
