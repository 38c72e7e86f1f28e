"""Make every table of figures in the documents from docs/results: python -m scripts.tables [--check]

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`. NAME is `FILE.TABLE` for a table of a file,
as `gpu/h200.answer`, or one that `composed` makes of several files.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.errors import InputError
from llava.files import atomic_writer, read_text
from scripts.tables.book import Book
from scripts.tables.composed import render

ROOT = Path(__file__).parents[2]
CARD = "playground/checkpoints/llava-tiny/README.md"
_BLOCK = re.compile(r"^(<!-- table: (\S+) -->\n)(.*?)^(<!-- end -->)$", re.DOTALL | re.MULTILINE)
_MARKER = re.compile(r"^<!-- (?:table:|end -->)", re.MULTILINE)


def fill(text: str, render: Callable[[str], str], where: str) -> str:
    """A document with its tables made anew. Raises InputError for a marker without its end, and as `render` does."""
    if len(_MARKER.findall(text)) != 2 * len(_BLOCK.findall(text)):
        raise InputError(f"{where}: a marker `<!-- table: NAME -->` or `<!-- end -->` without the other")
    return _BLOCK.sub(lambda block: f"{block[1]}{render(block[2])}{block[4]}", text)


def main() -> None:
    parser = CommandParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing, and fail if a table is not what docs/results gives"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository (this one)")
    args = parser.parse_args()
    book, stale = Book(args.root / "docs" / "results"), []
    for file in sorted([*args.root.glob("*.md"), *args.root.glob("docs/*.md"), args.root / CARD]):
        text, name = read_text(file, "document"), file.relative_to(args.root).as_posix()
        made = fill(text, partial(render, book), name)
        if made == text:
            continue
        if args.check:
            pairs = zip(_BLOCK.findall(text), _BLOCK.findall(made))
            stale += [f"{name} ({old[1]})" for old, new in pairs if old != new]
            continue
        with atomic_writer(file) as output:
            output.write(made)
        print(f"written: {name}")
    if stale:
        raise InputError(f"not what docs/results gives: {', '.join(stale)}; python -m scripts.tables makes them")


if __name__ == "__main__":
    run_command(main)
