"""The table of scores: python -m llava.eval.report.summary, at the place that the recipes' users know."""

from llava.cli import run_command
from llava.eval.report.summary import main

if __name__ == "__main__":
    run_command(main)
