"""The table of scores: python -m llava.eval.report.summary, at the place that the recipes' users know."""

from llava.eval.report.summary import main
from llava.utils import run_command

if __name__ == "__main__":
    run_command(main)
