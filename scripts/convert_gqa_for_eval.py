"""Upstream's place for `python -m llava.eval.submit gqa`."""

from functools import partial

from llava.eval.submit import main as submit
from llava.utils import run_command

main = partial(submit, "gqa")

if __name__ == "__main__":
    run_command(main)
