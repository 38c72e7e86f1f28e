"""The hold that a run has on an answer file: one run at a time writes it."""

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
    """A lock in the folder of an answer file's parts, which all processes of a run share.

    The first process takes it alone and then lets the others in, so that no other run can have it before the last one
    of them has ended. The system gives it back when a process ends, however it ends.
    """

    def __init__(self, answers_file: Path, folder: Path) -> None:
        self.answers_file, self.folder = answers_file, folder
        self._file: TextIO | None = None
        self._new_folders: list[Path] = []

    @property
    def is_held(self) -> bool:
        return self._file is not None and not self._file.closed

    def take(self) -> None:
        """Take hold for a run. Raises InputError if another run has it, or the folder cannot be written."""
        deadline = time.monotonic() + RELEASE
        while not self._try(fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise InputError(f"another run is writing {self.answers_file}{self._holder()}")
            time.sleep(0.1)
        with contextlib.suppress(OSError):  # for the message alone
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._file.flush()
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def share(self) -> None:
        """Take part in the hold of this process's run. Raises InputError if another run has it."""
        if not self.is_held and not self._try(fcntl.LOCK_SH):
            raise InputError(f"another run is writing {self.answers_file}{self._holder()}")

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

    def remove_folder(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder)

    def _try(self, kind: int) -> bool:
        try:
            self._new_folders += [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = (self.folder / "lock").open(
                "a+"
            )  # to share it where a network makes it a lock of bytes, reading is asked for
        except OSError as error:
            raise InputError(f"cannot write {self.answers_file}: {one_line(error)}") from error
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(self._file.fileno()), Path(self._file.name).stat()):
                return True
        except (BlockingIOError, FileNotFoundError):  # another run has it, or has just removed the folder
            pass
        except OSError as error:
            raise InputError(f"cannot lock {self._file.name}: {one_line(error)}") from error
        self._file.close()
        return False

    def _holder(self) -> str:
        try:
            text = (self.folder / "lock").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return f": {text}" if text else ""
