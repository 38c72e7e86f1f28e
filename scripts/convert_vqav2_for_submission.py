"""Upstream's place for `python -m llava.eval.submit vqav2`."""

from functools import partial

from llava.eval.submit import main as submit
from llava.utils import run_command

main = partial(submit, "vqav2")

if __name__ == "__main__":
    run_command(main)
