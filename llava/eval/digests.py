"""Digests of files' contents, computed once while a file stays as it is.

SHA-256 of the whole file, several files at once. What was computed is kept in `~/.cache/llava/digests.json`, under the
file's path with its size, its number on the disk and its times of change: whoever edits a file, by whatever means,
changes one of them. Where that cache cannot be written, everything is computed anew.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llava.utils import InputError, one_line

CACHE = Path.home() / ".cache" / "llava" / "digests.json"
MOST_ENTRIES = 500_000


def digest_files(files: Iterable[Path], cache_file: Path = CACHE) -> list[str]:
    """The SHA-256 of each file, in hexadecimal. Raises InputError, naming the file, for one that cannot be read."""
    files, cache = list(files), _read_cache(cache_file)
    known = {file: _state(file) for file in files}
    new = [file for file, state in known.items() if cache.get(str(file.absolute()), [None])[:-1] != state]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, digest in zip(new, pool.map(_digest_file, new)):
            cache[str(file.absolute())] = [*known[file], digest]
    if new:
        _write_cache(cache_file, cache)
    return [cache[str(file.absolute())][-1] for file in files]


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
        stat = file.stat()
    except OSError as error:
        raise InputError(f"cannot read {file}: {one_line(error)}") from error
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _digest_file(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {file}: {one_line(error)}") from error


def _read_cache(file: Path) -> dict[str, list]:
    try:
        cache = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
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
