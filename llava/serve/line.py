"""The line of those who ask the model: one after another, first come first served."""

import threading
from collections import deque
from types import TracebackType

from llava.errors import InputError

MOST = 24  # each may hold a thread of the web server while it waits, which has 40


class Line:
    """Who is first in the line has the model to itself.

    `with line:` waits for that and leaves at its end, as a lock does. `line.enter()` gives a place to be watched.
    """

    def __init__(self, most: int = MOST) -> None:
        """`most` may be in the line at once, the one whose turn it is included."""
        self._most = most
        self._places: deque[Place] = deque()
        self._moved = threading.Condition()

    def __len__(self) -> int:
        """How many are in the line, the one whose turn it is included."""
        return len(self._places)

    def enter(self) -> "Place":
        """The last place. Raises InputError where the line is full."""
        with self._moved:
            if len(self._places) >= self._most:
                raise InputError(f"{len(self._places)} questions are waiting already: please ask again in a while")
            place = Place(self)
            self._places.append(place)
        return place

    def __enter__(self) -> None:
        self.enter().wait()

    def __exit__(self, *_: object) -> None:
        self._places[0].leave()  # of whom has the turn, in whatever thread


class Place:
    """A place in a line; it is left at the end of `with`."""

    def __init__(self, line: Line) -> None:
        self._line = line

    @property
    def before(self) -> int:
        """How many have their turn before this one; 0 when it is its turn."""
        with self._line._moved:
            return self._line._places.index(self)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait, at most so long, until it is its turn. Returns whether it is."""
        with self._line._moved:
            return self._line._moved.wait_for(lambda: self._line._places[0] is self, seconds)

    def leave(self) -> None:
        """Let the next ones move up, whether or not it was its turn."""
        with self._line._moved:
            self._line._places.remove(self)
            self._line._moved.notify_all()

    def __enter__(self) -> "Place":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
