"""Digests of files' contents, computed once while a file stays as it is.

SHA-256 of the whole file, several files at once. What was computed is kept in `~/.cache/llava/digests.json`, under the
file's path with its size, its number on the disk and its times of change: whoever edits a file, by whatever means,
changes one of them. A file that has just been changed is not kept: it could change again within the same tick of the
disk's clock. Where that cache cannot be written, everything is computed anew.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llava.errors import InputError, one_line

CACHE = Path.home() / ".cache" / "llava" / "digests.json"
MOST_ENTRIES = 500_000
SETTLED = 2_000_000_000  # nanoseconds since its last change after which a file's digest is kept


def digest_files(files: Iterable[Path], cache_file: Path = CACHE) -> list[str]:
    """The SHA-256 of each file, in hexadecimal. Raises InputError, naming the file, for one that cannot be read."""
    files, cache = list(files), _read_cache(cache_file)
    states, digests, new = {file: _state(file) for file in files}, {}, []
    for file, state in states.items():
        entry = cache.get(str(file.absolute()))
        if isinstance(entry, list) and len(entry) == len(state) + 1 and entry[:-1] == state:
            digests[file] = entry[-1]
        else:
            new.append(file)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests |= zip(new, pool.map(_digest_file, new))
    settled = [file for file in new if max(states[file][2:]) < time.time_ns() - SETTLED]
    if settled:  # read again: other runs write there
        added = {str(file.absolute()): [*states[file], digests[file]] for file in settled}
        _write_cache(cache_file, _read_cache(cache_file) | added)
    return [digests[file] for file in files]


def digest_texts(parts: Iterable[str | bytes]) -> str:
    """The SHA-256 of texts one after another, each with its length, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def _state(file: Path) -> list[int]:
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {one_line(error)}") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would never end
        raise InputError(f"cannot read {file}: it is no regular file")
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _digest_file(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {file}: {one_line(error)}") from error


def _read_cache(file: Path) -> dict[str, list]:
    try:
        cache = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return cache if isinstance(cache, dict) and len(cache) < MOST_ENTRIES else {}


def _write_cache(file: Path, cache: dict[str, list]) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(cache), encoding="utf-8")
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
