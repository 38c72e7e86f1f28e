"""The same as `python -m llava.model.convert`, at the place that was documented first."""

from llava.cli import run_command
from llava.model.convert import main

if __name__ == "__main__":
    run_command(main)
