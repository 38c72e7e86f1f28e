"""MMBench's tables, as the tests write them."""

import base64
import csv
from io import BytesIO

from tests.conftest import picture

COLUMNS = [
    *("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"),
    *("source", "l2-category", "comment", "split"),
]


def encoded(seed: int) -> str:
    """A base64 JPEG."""
    buffer = BytesIO()
    picture(400, 300, seed).save(buffer, "JPEG", quality=95)
    return base64.b64encode(buffer.getvalue()).decode()


def write_table(path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", restval="")
        writer.writeheader()
        writer.writerows(rows)
