"""Tables for people and programs: Markdown that is aligned to be read as it is, and CSV."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from llava.files import atomic_writer


def printable(name: str) -> str:
    """A name from a disk for a table or a plot: what cannot be printed, such as a line break, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def markdown_table(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """The lines of a table, header first, as Markdown: the first `left` columns left-aligned, the others right."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    padded = (
        [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        for line in [lines[0], rule, *lines[1:]]
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table as CSV, whole or not at all. Raises InputError if it cannot be written."""
    with atomic_writer(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
