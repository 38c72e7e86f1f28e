"""Upstream's place for `python -m llava.eval.submit vizwiz`."""

from functools import partial

from llava.cli import run_command
from llava.eval.submit import main as submit

main = partial(submit, "vizwiz")

if __name__ == "__main__":
    run_command(main)
