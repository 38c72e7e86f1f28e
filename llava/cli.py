"""What every command shares: its parser, and the one place that turns bad input into one line and exit code 2."""

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from llava.errors import InputError, one_line


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line on stderr and exit code 2, like any other bad input."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())} (--help lists the options)\n")


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main` and exit: 0 when it returns, 2 with one line on stderr for an InputError.

    While it runs, the threads of OpenMP sleep when they wait, unless OMP_WAIT_POLICY says otherwise: on a CPU that
    other processes use too, threads that spin take time from one another. It must come before the import of torch.
    A stdout whose reader has gone (`| head`) ends it quietly with the shell's code for SIGPIPE, Ctrl-C with that for
    SIGINT, a full disk with 2. A stream that was closed from the start (`>&-`) is not read.
    """
    _open_closed_streams()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
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


def _open_closed_streams() -> None:
    """Let streams that are closed lead nowhere: else the next file that is opened takes their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
