"""The names of training's options, read from source files: importing them from transformers takes seconds.

`python -m llava.train.train` looks here first, so that `--help` and a mistyped option are answered at once; the parser
of transformers then reads the values.
"""

import ast
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.utils import InputError

OWN = ("ModelArguments", "DataArguments", "TrainingArguments")
NEEDED = ("output_dir", "model_name_or_path", "vision_tower", "data_path")


def read_options() -> dict[str, dict[str, str]]:
    """Help texts by option: LLaVA's own and those of transformers' Trainer, each in the order of its file."""
    package = Path(importlib.util.find_spec("transformers").origin).parent  # which does not import it
    own = _fields(Path(__file__).with_name("arguments.py"), OWN)
    theirs = _fields(package / "training_args.py", ("TrainingArguments",))
    return {"llava": own, "trainer": {name: text for name, text in theirs.items() if name not in own}}


def _fields(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """The fields of dataclasses in a source file, with the text of their metadata's `help`."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    found[field.target.id] = _help(field.value)
    return {name: text for name, text in found.items() if not name.startswith("_")}


def _help(value: ast.expr | None) -> str:
    """The help text in `field(..., metadata={"help": ...})`, on one line; empty where there is none to be read."""
    for keyword in getattr(value, "keywords", []):
        if keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
            for key, text in zip(keyword.value.keys, keyword.value.values):
                if isinstance(key, ast.Constant) and key.value == "help":
                    parts = [part.value for part in ast.walk(text) if isinstance(part, ast.Constant)]
                    return " ".join("".join(map(str, parts)).split())
    return ""


def check_names(args: Sequence[str]) -> None:
    """Look at a command line's option names; `--help` prints them all and ends the command.

    Raises InputError for an option that neither LLaVA nor transformers' Trainer has, and for one that is missing.
    """
    options = read_options()
    if "-h" in args or "--help" in args:
        sys.stdout.write(_describe(options) + "\n")
        sys.exit(0)
    known = {*options["llava"], *options["trainer"]}
    given = [arg[2:].partition("=")[0].replace("-", "_") for arg in args if arg.startswith("--") and len(arg) > 2]
    for name in given:
        positive = name.removeprefix("no_")  # how a switch that is on by default is switched off
        if not any(option.startswith((name, positive)) for option in known):
            raise InputError(f"unrecognized arguments: --{name} (--help lists the options)")
    for name in NEEDED:
        if not any(name.startswith(each) and each for each in given):
            raise InputError(f"--{name} is needed")


def _describe(options: dict[str, dict[str, str]]) -> str:
    """The options as a text: LLaVA's own with their help, then those of transformers' Trainer."""
    lines = ["usage: python -m llava.train.train --output_dir DIR [option value ...]", "", "LLaVA's options:"]
    lines += [f"  --{name:28} {text}" for name, text in options["llava"].items()]
    lines += ["", "Options of transformers' Trainer:"]
    lines += [f"  --{name:28} {text[:160]}" for name, text in options["trainer"].items()]
    return "\n".join(lines)
