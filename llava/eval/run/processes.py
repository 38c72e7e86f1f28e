"""Processes that end with the one that started them, however that ends."""

import contextlib
import ctypes
import os
import signal
import sys

import psutil

PARENT = "LLAVA_PARENT"  # in the environment of a child: the process that it must not outlive
GOES_ON = "what has been answered is kept: the same command goes on"
_PR_SET_PDEATHSIG = 1


def environment_of_child() -> dict[str, str]:
    """This process's environment, for a child that calls `end_with_parent`."""
    return os.environ | {PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, if that asked for it in the environment.

    A launcher that is killed cannot end its children, and they would hold the answers, and a GPU, for ever.
    """
    parent = os.environ.pop(PARENT, None)  # it is not the parent of this one's own children
    if parent is None:
        return
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent) and not psutil.pid_exists(int(parent)):  # a wrapper may be between the two
        sys.exit("error: the process that started this one has ended")
