"""Files that commands write, there whole or not at all."""

import json
from pathlib import Path

from llava.utils import atomic_writer


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as JSON. Raises InputError if the file cannot be written."""
    with atomic_writer(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False))
