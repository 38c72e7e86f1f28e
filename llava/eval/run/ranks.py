"""The processes that share questions: which one this is, what the first sends the others, and one progress bar.

They are started by `accelerate launch` (see `llava.eval.run.launch`), which says in the environment who is who, and
which ends all processes of a machine when one dies. What they have to say passes through the launcher's own store: the
first process says what is left to answer, the others when they are ready and when they are done. Nobody waits for one
that has ended: see `lock`.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from llava.errors import InputError
from llava.eval.benchmarks.questions import Question
from llava.eval.run.answers import AnswerStore
from llava.eval.run.processes import GOES_ON, end_with_parent

COMING = 600  # seconds in which the other processes must have begun
POLL = 0.1


class Ranks:
    """This process among those of its run: `rank` of `count`."""

    def __init__(self) -> None:
        end_with_parent()
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self._turn, self._store = 0, None
        if self.count > 1:
            from torch.distributed.rendezvous import rendezvous

            with _store_in_reach():
                self._store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=COMING)))

    def device(self, wanted: str) -> str:
        """`wanted`, or this process's own GPU of several where that is "cuda"."""
        if wanted != "cuda" or self.count == 1:
            return wanted
        import torch

        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else wanted

    def from_first(self, get: Callable[[], Any]) -> Any:
        """What `get` returns in the first process, as JSON gives it back, in all of them; so with an InputError."""
        if self.count == 1:
            return get()
        self._turn += 1
        if self.rank > 0:
            value, error = self._hear(f"{self._turn}")
        else:
            try:
                value, error = get(), None
            except InputError as raised:
                value, error = None, str(raised)
            self._say(f"{self._turn}", (value, error))
        if error is not None:
            raise InputError(error)
        return value

    def to_first(self, value: Any, has_ended: Callable[[int], bool]) -> list:
        """In the first process the values of all, when all have said theirs; in others their own.

        Ends this process with one line and exit code 1 if another of the run `has_ended` without a word.
        """
        self._turn += 1
        if self.rank > 0:
            self._say(f"{self._turn}/{self.rank}", value)
            return [value]
        others = range(1, self.count)
        return [value, *(self._hear(f"{self._turn}/{rank}", lambda rank=rank: has_ended(rank)) for rank in others)]

    def _say(self, key: str, value: Any) -> None:
        with _store_in_reach():
            self._store.set(key, json.dumps(value))

    def _hear(self, key: str, has_ended: Callable[[], bool] = lambda: False) -> Any:
        with _store_in_reach():
            while not self._store.check([key]):
                if has_ended() and not self._store.check([key]):  # it may have ended after its last word
                    raise ConnectionError
                time.sleep(POLL)
            return json.loads(self._store.get(key))


@contextlib.contextmanager
def _store_in_reach() -> Iterator[None]:
    """Ends this process with one line and exit code 1 where the store, or another process of the run, is gone."""
    try:
        yield
    except (RuntimeError, ConnectionError):
        sys.exit(f"error: another process of this run ended before its questions were answered; {GOES_ON}")


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


class Progress(threading.Thread):
    """A bar of the answers of all processes, which it counts in their files. A context that shows it."""

    def __init__(self, stores: list[AnswerStore], total: int, hidden: bool) -> None:
        super().__init__(daemon=True)
        self.stores, self.read = stores, self._lengths(stores)
        self.bar = tqdm(total=total, desc="answering", unit="question", disable=hidden, mininterval=1)
        self.ended = threading.Event()

    @staticmethod
    def _lengths(stores: list[AnswerStore]) -> dict:
        return {part: length for store in stores for part, length in store.lengths().items()}

    def run(self) -> None:
        while not self.ended.wait(0.5):
            self.update()

    def update(self) -> None:
        """Count the lines that have been added."""
        for part, length in self._lengths(self.stores).items():
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
