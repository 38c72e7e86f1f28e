"""The hold that a run has on an answer file: one run at a time writes it, and its processes know of each other."""

import contextlib
import fcntl
import os
import shutil
import socket
import time
from pathlib import Path
from typing import TextIO

from llava.errors import InputError, one_line

# Seconds to wait for the end of a run that was killed: its memory is given back before its locks are.
RELEASE = 10


class AnswersLock:
    """A locked file for each process of a run, in the folder of an answer file's parts.

    The system gives a lock back when its process ends, however it ends: so the first process knows whether another is
    there, and the next run that the last of the old one has ended.
    """

    def __init__(self, answers_file: Path, folder: Path) -> None:
        self.answers_file, self.folder = answers_file, folder
        self._file: TextIO | None = None
        self._new_folders: list[Path] = []

    @property
    def is_held(self) -> bool:
        return self._file is not None and not self._file.closed

    def take(self, rank: int = 0) -> None:
        """Take hold, as the first process for its run. Raises InputError if another run has it, or it cannot be taken.

        Other processes take theirs when the first has.
        """
        deadline = time.monotonic() + RELEASE
        while not self._try(rank) or (rank == 0 and self._is_any_held()):
            self.close()
            if time.monotonic() > deadline:
                raise InputError(f"another run is writing {self.answers_file}{self._holder()}")
            time.sleep(0.1)
        with contextlib.suppress(OSError):  # for the message alone
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._file.flush()

    def has_ended(self, rank: int) -> bool:
        """Whether no process holds the lock of `rank`."""
        try:
            file = self._path(rank).open("r+")
        except OSError:
            return True
        with file:
            return _is_locked_now(file)

    def close(self) -> None:
        """Let go."""
        if self.is_held:
            self._file.close()

    def remove_new_folders(self) -> None:
        """Remove the folder of parts, and those above it that `take` made, as far as they are empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self._new_folders:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _path(self, rank: int) -> Path:
        return self.folder / ("lock" if rank == 0 else f"lock.{rank}")

    def _try(self, rank: int) -> bool:
        try:
            self._new_folders += [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path(rank).open("a+")
        except OSError as error:
            raise InputError(f"cannot write {self.answers_file}: {one_line(error)}") from error
        try:
            return _is_locked_now(self._file) and os.path.samestat(
                os.fstat(self._file.fileno()), self._path(rank).stat()
            )
        except FileNotFoundError:  # another run has just removed the folder
            return False
        except OSError as error:
            raise InputError(f"cannot lock {self._file.name}: {one_line(error)}") from error

    def _is_any_held(self) -> bool:
        """Whether a process of an earlier run is left."""
        return not all(self.has_ended(int(path.name.removeprefix("lock."))) for path in self.folder.glob("lock.*"))

    def _holder(self) -> str:
        for path in (self._path(0), *self.folder.glob("lock.*")):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if text := path.read_text(encoding="utf-8").strip():
                    return f": {text}"
        return ""


def _is_locked_now(file: TextIO) -> bool:
    """Lock an open file, unless another process has; returns whether that could be."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
