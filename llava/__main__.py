"""The command `llava`, and `python -m llava`: every command of the package under one name.

    llava ask --model-path liuhaotian/llava-v1.5-7b --image-file picture.jpg --query "What is this?"

`llava COMMAND --help` lists a command's options.
"""

import sys
from importlib import import_module

from llava.cli import CommandParser, run_command

COMMANDS = {
    "ask": ("llava.eval.run_llava", "one question about one picture, or several"),
    "chat": ("llava.serve.cli", "a conversation about a picture"),
    "page": ("llava.serve.web", "a web page, and OpenAI's API at the same address"),
    "eval": ("llava.eval.__main__", "benchmarks: questions to scores, at one budget or many"),
    "budget": ("llava.eval.budget", "how many visual tokens are enough for your questions"),
    "bench": ("llava.bench.__main__", "time, memory and arithmetic at many budgets"),
    "convert": ("llava.model.convert", "a checkpoint into transformers' own layout, or back"),
}
_PUBLISHED = ("ask", "chat")  # by their own names these two have upstream's default template


def main() -> None:
    listed = "\n".join(f"  {name:10}{what}" for name, (_, what) in COMMANDS.items())
    usage = f"llava COMMAND ...\n\n{listed}\n\nllava COMMAND --help lists a command's options."
    parser = CommandParser(prog="llava", usage=usage, add_help=False)
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: {usage}")
        return
    if name not in COMMANDS:
        parser.error(f"there is no command {name!r}: {', '.join(COMMANDS)}")
    run = import_module(COMMANDS[name][0]).main
    sys.argv = [f"llava {name}", *sys.argv[2:]]
    run(as_upstream=False) if name in _PUBLISHED else run()


def console() -> None:
    """The console script."""
    run_command(main)


if __name__ == "__main__":
    console()
