"""Whether files are what they were: by a stamp of names, sizes, times and the system's numbers, or else by contents.

Who edits a file, by whatever means, changes one of its times. A copy is another file with the same contents; where
clocks are coarse it may have the same times.
"""

import hashlib
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from llava.errors import InputError, one_line


def stamp_files(files: Iterable[Path]) -> str:
    """A digest of files' names, numbers, sizes and times of change. Raises InputError for one that cannot be read."""
    return digest_texts(f"{file.name} {_state(file)}" for file in files)


def digest_files(files: Iterable[Path]) -> list[str]:
    """The SHA-256 of each file, in hexadecimal. Raises InputError, naming the file, for one that cannot be read."""
    files = list(files)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_digest_file, files, map(_state, files)))


def digest_texts(parts: Iterable[str | bytes]) -> str:
    """The SHA-256 of texts one after another, each with its length: the first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()[:16]


def _state(file: Path) -> tuple[int, ...]:
    """A regular file's number, size, and the times of change of its contents and of what the system knows of it."""
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {one_line(error)}") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would never end
        raise InputError(f"cannot read {file}: it is no regular file")
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=1 << 18)  # a run of many settings reads a file once
def _digest_file(file: Path, state: tuple[int, ...]) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {file}: {one_line(error)}") from error
