"""The processes that share a question file: which one this is, what they agree on, and one progress bar for all.

They are started by `accelerate launch` (see `llava.eval.launch`), which says in the environment who is who. They talk
over gloo, on a GPU machine too: it is a few bytes now and then.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

from llava.errors import InputError
from llava.eval.answers import AnswerStore
from llava.eval.processes import end_with_parent, join_peers, peers_alive
from llava.eval.questions import Question

Value = TypeVar("Value")
LONGEST_WAIT = timedelta(days=365)  # for a live process, however many questions it has; see `Heartbeat` for a dead one


class Ranks:
    """This process among those of its run: `rank` of `count`. A context: within it they can talk."""

    def __init__(self) -> None:
        end_with_parent()
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))

    def __enter__(self) -> Self:
        if self.count > 1:
            self._heartbeat = join_peers(self.rank, self.count, LONGEST_WAIT)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.count > 1:
            import torch.distributed as dist

            self._heartbeat.stop()
            dist.destroy_process_group()  # a process that exits with it alive may be aborted

    def device(self, wanted: str) -> str:
        """`wanted`, or this process's own GPU of several where that is "cuda"."""
        if wanted != "cuda" or self.count == 1:
            return wanted
        import torch

        if torch.cuda.is_available():
            return f"cuda:{self.local_rank}"
        return wanted

    def from_first(self, get: Callable[[], Value]) -> Value:
        """What `get` returns in the first process, in all of them. An InputError there ends them all.

        Each process then ends with exit code 2, and the first of each machine says why.
        """
        if self.count == 1:
            return get()
        import torch.distributed as dist

        said = [_outcome(get)] if self.rank == 0 else [None]
        with peers_alive():
            dist.broadcast_object_list(said)
        value, error = said[0]
        self._raise(error)
        return value

    def from_each(self, get: Callable[[], Value]) -> Value:
        """What `get` returns in this process, when it has returned in all. An InputError in one ends them all.

        Each process then ends with exit code 2, and the first of each machine says why. If one ends otherwise, the
        others end with one line and exit code 1.
        """
        if self.count == 1:
            return get()
        import torch.distributed as dist

        value, error = _outcome(get)
        errors: list = [None] * self.count
        with peers_alive():
            dist.all_gather_object(errors, error)
        self._raise("; ".join(dict.fromkeys(error for error in errors if error is not None)))
        return value

    def _raise(self, error: str | None) -> None:
        """End this process if there is an error, which the first of each machine tells."""
        if error and self.local_rank == 0:
            raise InputError(error)
        if error:
            time.sleep(10)  # the launcher ends this process when it ends the first
            sys.exit(2)


def _outcome(get: Callable[[], Value]) -> tuple[Value | None, str | None]:
    """What `get` returns, and the message of the InputError that it raises."""
    try:
        return get(), None
    except InputError as error:
        return None, str(error)


def share(questions: list[Question], order: list[int], rank: int, count: int) -> list[int]:
    """The part of `order`, numbers of questions, that process `rank` of `count` answers.

    Questions on one image that stand together stay together; the parts follow one another and are of similar size.
    """
    mine, image, owner = [], object(), 0
    for position, number in enumerate(order):
        if position == 0 or questions[number].image is None or questions[number].image != image:
            image, owner = questions[number].image, position * count // len(order)
        if owner == rank:
            mine.append(number)
    return mine


def by_image(questions: list[Question], numbers: list[int]) -> list[int]:
    """The `numbers` of questions, reordered: first those without an image, then image by image as they first occur."""
    first: dict = {}
    for number in numbers:
        first.setdefault(questions[number].image, number)
    return sorted(numbers, key=lambda number: (questions[number].image is not None, first[questions[number].image]))


class Progress(threading.Thread):
    """A bar of the answers of all processes, which it counts in their files. A context that shows it."""

    def __init__(self, store: AnswerStore, total: int, hidden: bool) -> None:
        super().__init__(daemon=True)
        self.store, self.read = store, store.lengths()
        self.bar = tqdm(total=total, desc="answering", unit="question", disable=hidden, mininterval=1)
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.5):
            self.update()

    def update(self) -> None:
        """Count the lines that have been added."""
        for part, length in self.store.lengths().items():
            start = self.read.get(part, 0)
            if length > start:
                with part.open("rb") as file:
                    file.seek(start)
                    self.bar.update(file.read(length - start).count(b"\n"))
                self.read[part] = length

    def __enter__(self) -> Self:
        if not self.bar.disable:
            self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.ended.set()
        if self.is_alive():
            self.join()
        if not self.bar.disable:
            self.update()
        self.bar.close()
