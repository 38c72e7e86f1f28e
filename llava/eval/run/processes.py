"""Processes that end with the one that started them, and that notice when another of their run is gone."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

PARENT = "LLAVA_PARENT"  # in the environment of a child: the process that it must not outlive
SILENCE = 90  # seconds without a beat after which a process counts as dead
BEAT = 5  # seconds between beats
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
    if os.getppid() == int(parent):
        with contextlib.suppress(OSError, AttributeError):  # not Linux
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        is_alive = os.getppid() == int(parent)
    else:  # it has ended, or a wrapper stands between it and this process
        is_alive = _exists(int(parent))
    if not is_alive:
        sys.exit("error: the process that started this one has ended")


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def peers_alive() -> Iterator[None]:
    """Around talk over gloo: end this process with one line and exit code 1 if a peer has ended."""
    try:
        yield
    except RuntimeError:
        sys.exit("error: another process of this run ended before its questions were answered")


class Heartbeat:
    """Ends this process with one line and exit code 1 when nothing is heard of a peer for `silence` seconds.

    gloo notices a peer whose connection is closed, and waits for one whose machine is gone. Beats say only that a
    peer is alive: it may take any time for its questions. They are counters in torch's store, which a thread of its own
    raises and reads; a second one counts the seconds, since the first hangs where the store is out of reach. It counts
    its own wakings rather than the clock: time in which this process was stopped is no silence of the others.
    """

    def __init__(
        self, store, rank: int, count: int, silence: float = SILENCE, beat: float = BEAT, end: Callable = os._exit
    ) -> None:
        self.store, self.rank, self.silence, self.beat, self.end = store, rank, silence, beat, end
        self.silent = {peer: 0.0 for peer in range(count) if peer != rank}
        self.ended = threading.Event()
        for run in (self._beat, self._watch):
            threading.Thread(target=run, daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        self.ended.set()

    def _beat(self) -> None:
        heard = dict.fromkeys(self.silent, 0)
        while not self.ended.is_set():
            try:
                self.store.add(f"beat/{self.rank}", 1)
                for peer, before in heard.items():
                    heard[peer] = self.store.add(f"beat/{peer}", 0)
                    if heard[peer] != before:
                        self.silent[peer] = 0.0
            except RuntimeError:  # out of reach: all are silent
                pass
            self.ended.wait(self.beat)

    def _watch(self) -> None:
        tick = self.beat / 5
        while not self.ended.wait(tick):
            for peer in self.silent:
                self.silent[peer] += tick
                if self.silent[peer] > self.silence and not self.ended.is_set():
                    self.ended.set()
                    says = f"error: nothing has been heard of rank {peer} for {self.silence:g} seconds; {GOES_ON}"
                    print(says, file=sys.stderr, flush=True)
                    self.end(1)
                    return


def join_peers(rank: int, count: int, longest_wait: timedelta) -> Heartbeat:
    """Meet the other processes of the run, as the environment says where, for talk over gloo and for beats."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    try:
        # A connection of its own: who waits for the answer to one question of a connection keeps others from asking.
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=SILENCE)))
        heartbeat = Heartbeat(dist.PrefixStore("llava", store), rank, count)
    except RuntimeError:
        sys.exit(f"error: the other processes of this run have not come within {SILENCE} seconds")
    with peers_alive():
        dist.init_process_group("gloo", timeout=longest_wait)
    return heartbeat
