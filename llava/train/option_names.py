"""The options of training, read from source files, because importing transformers takes seconds.

`python -m llava.train.train` calls `check_names` first, so that `--help` and a mistyped or missing option are answered
at once. The parser of transformers reads the values afterwards.
"""

import ast
import importlib.util
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from llava.errors import InputError

OWN_CLASSES = ("ModelArguments", "DataArguments", "TrainingArguments")
REQUIRED = ("output_dir", "model_name_or_path", "vision_tower", "data_path")
# The files of transformers with the values that an option of an enumerated type takes.
_FILES_OF_CHOICES = ("training_args.py", "trainer_utils.py", "debug_utils.py")


def read_options() -> dict[str, dict[str, str]]:
    """The descriptions of all options by name: `llava` has LLaVA's own, `trainer` those of transformers' Trainer."""
    package = Path(importlib.util.find_spec("transformers").origin).parent  # find_spec does not import it
    trees = {name: _parse(package / name) for name in _FILES_OF_CHOICES}
    choices = {name: values for tree in trees.values() for name, values in _read_enums(tree)}
    own = _read_fields(_parse(Path(__file__).with_name("arguments.py")), OWN_CLASSES, choices)
    inherited = _read_fields(trees["training_args.py"], ("TrainingArguments",), choices)
    return {"llava": own, "trainer": {name: text for name, text in inherited.items() if name not in own}}


def check_names(args: Sequence[str]) -> None:
    """Check the option names of a command line; `--help` prints all options and ends the command.

    Raises InputError for an option that neither LLaVA nor transformers' Trainer has, and for a required one that is
    missing.
    """
    options = read_options()
    if "-h" in args or "--help" in args:
        sys.stdout.write(_format_help(options) + "\n")
        sys.exit(0)
    known = {*options["llava"], *options["trainer"]}
    given = [arg[2:].partition("=")[0].replace("-", "_") for arg in args if arg.startswith("--") and len(arg) > 2]
    for name in given:
        # The parser takes the beginning of a name for the name, and `--no_name` for a switch that is on by default.
        if not any(option.startswith((name, name.removeprefix("no_"))) for option in known):
            raise InputError(f"unrecognized arguments: --{name} (--help lists the options)")
    for required in REQUIRED:
        if not any(required.startswith(name) and name for name in given):
            raise InputError(f"--{required} is needed")


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _read_enums(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """The name and the values of each class of enumerated strings."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "ExplicitEnum" for base in node.bases):
            values = [field.value for field in node.body if isinstance(field, ast.Assign)]
            yield node.name, [value.value for value in values if isinstance(value, ast.Constant)]


def _read_fields(tree: ast.Module, classes: Sequence[str], choices: dict[str, list[str]]) -> dict[str, str]:
    """The descriptions of the fields of some dataclasses, by name."""
    fields = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in classes:
            annotated = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            fields |= {field.target.id: _describe(field, choices) for field in annotated}
    return {name: text for name, text in fields.items() if not name.startswith("_")}


def _describe(field: ast.AnnAssign, choices: dict[str, list[str]]) -> str:
    """An option's help text, choices and default, as far as they stand literally in `field(...)`."""
    arguments = {keyword.arg: keyword.value for keyword in getattr(field.value, "keywords", [])}
    metadata = {}
    if isinstance(found := arguments.get("metadata"), ast.Dict):
        metadata = {ast.literal_eval(key): value for key, value in zip(found.keys, found.values)}
    text = str(_literal(metadata.get("help")) or "").replace("%%", "%")  # argparse's escape
    types = [node.id for node in ast.walk(field.annotation) if isinstance(node, ast.Name)]
    values = _literal(metadata.get("choices")) or next((choices[name] for name in types if name in choices), [])
    notes = [f"one of {', '.join(values)}"] if values else []
    if "default" in arguments and (default := _literal(arguments["default"])) is not None:
        notes.append(f"default: {default!r}")
    return " ".join((f"{text} ({'; '.join(notes)})" if notes else text).split())


def _literal(node: ast.expr | None) -> object:
    """The value of a literal; None for any other expression."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def _format_help(options: dict[str, dict[str, str]]) -> str:
    """All options with their descriptions, in lines that fit the terminal."""
    width = max(shutil.get_terminal_size().columns, 40)
    lines = ["usage: python -m llava.train.train --output_dir DIR [option value ...]"]
    for title, group in (("LLaVA's options:", "llava"), ("Options of transformers' Trainer:", "trainer")):
        lines += ["", title]
        for name, text in options[group].items():
            lines.append(f"  --{name}")
            lines += textwrap.wrap(text, width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)
