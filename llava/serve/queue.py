"""The queue of those who ask the model: one after another, first come first served."""

import threading
from collections import deque

from llava.errors import InputError

MOST = 64  # each holds a thread, and of the API's also the pixels of its pictures


class QueueFull(InputError):
    """So many wait already that no more are taken."""


class Queue:
    """Whoever is first in the queue has the model to itself.

    `with queue:` waits for that and leaves at its end, as a lock does. `queue.enter()` gives a place to be watched.
    """

    def __init__(self, most: int = MOST) -> None:
        """`most` may be in the queue at once, the one whose turn it is included."""
        self._most = most
        self._places: deque[Place] = deque()
        self._moved = threading.Condition()

    def __len__(self) -> int:
        """How many are in the queue, the one whose turn it is included."""
        return len(self._places)

    def enter(self) -> "Place":
        """The last place. Raises QueueFull."""
        with self._moved:
            if len(self._places) >= self._most:
                raise QueueFull(f"{len(self._places)} questions are waiting already: please ask again in a while")
            place = Place(self._places, self._moved)
            self._places.append(place)
        return place

    def __enter__(self) -> None:
        self.enter().wait()

    def __exit__(self, *_: object) -> None:
        self._places[0].leave()  # the current holder's, whichever thread it is in


class Place:
    """A place in a queue; it is left at the end of `with`."""

    def __init__(self, places: "deque[Place]", moved: threading.Condition) -> None:
        self._places, self._moved = places, moved

    @property
    def before(self) -> int:
        """How many have their turn before this one; 0 when it is its turn."""
        with self._moved:
            return self._places.index(self)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait, at most so long, until it is its turn. Returns whether it is."""
        with self._moved:
            return self._moved.wait_for(lambda: self._places[0] is self, seconds)

    def leave(self) -> None:
        """Let the next ones move up, whether or not it was its turn."""
        with self._moved:
            self._places.remove(self)
            self._moved.notify_all()

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
