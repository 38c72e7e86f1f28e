"""What every command shares: its parser, and the one place that turns bad input into one line and exit code 2."""

import argparse
import contextlib
import ctypes
import errno
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from llava.errors import InputError, one_line
from llava.files import require_new_folder, require_writable

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def output_file(text: str) -> Path:
    """The file that an option names for a command's result; an error of the option unless it can be written."""
    try:
        require_writable(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def output_folder(*names: str) -> Callable[[str], Path]:
    """As `output_file`, for a folder that gets files of these names."""

    def folder(text: str) -> Path:
        for name in names:
            output_file(str(Path(text) / name))
        return Path(text)

    return folder


def new_folder(text: str) -> Path:
    """The folder that an option names and a command makes; an error of the option if it is there or cannot be made."""
    try:
        require_new_folder(Path(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line on stderr and exit code 2, like any other bad input.

    Every command has `--debug`, which shows where an error comes from.
    """

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        if "--debug" not in self._option_string_actions:  # transformers' parser of training options has another
            self.add_argument("--debug", action=_Debug, help="show the traceback of an error too")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())} (--help lists the options)\n")


class _Debug(argparse.Action):
    """`--debug`: the package's loggers say more. Nothing of it is among the parsed arguments."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, *_) -> None:
        logging.getLogger("llava").setLevel(logging.DEBUG)


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main` and exit: 0 when it returns, 2 with one line on stderr for an InputError.

    While it runs, the threads of OpenMP sleep when they wait, unless OMP_WAIT_POLICY says otherwise: on a CPU that
    other processes use too, threads that spin take time from one another. It must come before the import of torch.
    Of freed memory up to a gigabyte stays with the process, unless MALLOC_TRIM_THRESHOLD_ says otherwise: what a model
    computes on a CPU on the way then needs no new pages from the system each time.
    A stdout whose reader has gone (`| head`) ends it quietly with the shell's code for SIGPIPE, Ctrl-C with that for
    SIGINT, a full disk with 2. A stream that was closed from the start (`>&-`) is not read.
    """
    _open_closed_streams()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        logger.debug("the error comes from here", exc_info=error)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it may be stdout, and is tried again at exit
        print(f"error: cannot write: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _keep_freed_memory() -> None:
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, 1 << 30)
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the most that glibc takes


def _open_closed_streams() -> None:
    """Let streams that are closed lead nowhere: else the next file that is opened takes their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
