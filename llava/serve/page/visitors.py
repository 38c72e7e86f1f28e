"""What the page keeps of each of its visitors, in memory only and for a limited number of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llava.serve.page.transcript import Comparison, Exchange

if TYPE_CHECKING:
    from llava.model.encode import Encoded
    from llava.serve.page.local_model import LocalChat
    from llava.serve.page.vllm_server import ServerChat

MOST_VISITORS = 64  # each has an encoded picture
MOST_CACHES = 4  # of these have a KV cache: a gigabyte and more for a 7B and a picture in five crops


@dataclass
class Visitor:
    """One visitor: the picture that is talked about, the conversation, and what of it is shown.

    `encoded` is None where no model is here to encode it; the others are None where no picture was chosen yet.
    `picture` and `thumbnail` are `data:` URIs of it, `name` is what it is called, with its size, and `scene` the title
    of the picture where it is one of the samples.
    """

    picture: str | None = None
    thumbnail: str | None = None
    name: str | None = None
    encoded: Encoded | None = None
    open_chat: Callable[[], LocalChat | ServerChat] | None = None
    chat: LocalChat | ServerChat | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    comparison: Comparison | None = None
    scene: str = ""

    def start_over(self) -> None:
        """Begin a new conversation about the same picture."""
        self.stop()
        self.chat, self.exchanges = self.open_chat() if self.open_chat else None, []

    def stop(self) -> None:
        """Take back what was asked in the conversation and has no answer yet."""
        for exchange in self.exchanges:
            for answer in (exchange.pruned, exchange.unpruned):
                answer.is_asked &= answer.is_done
            if not exchange.pruned.is_done:
                self.take_back(exchange)

    def take_back(self, exchange: Exchange) -> None:
        """Take an exchange out of the conversation; that whose place it has taken returns."""
        kept = [other if other is not exchange else exchange.former for other in self.exchanges]
        self.exchanges = [other for other in kept if other is not None]

    def leave(self) -> None:
        """Take back everything that has no answer yet."""
        self.stop()
        if self.comparison is not None:
            self.comparison.stop()


class Visitors:
    """The visitors by the key of their browser's session; who was here longest ago makes room for a new one."""

    def __init__(self, most: int = MOST_VISITORS, most_caches: int = MOST_CACHES) -> None:
        self._most, self._most_caches = most, most_caches
        self._visitors: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._visitors)

    def get(self, key: str) -> Visitor:
        """The visitor with this key, a new one if there is none."""
        with self._lock:
            visitor = self._visitors.setdefault(key, Visitor())
            self._visitors.move_to_end(key)
            while len(self._visitors) > self._most:
                self._visitors.popitem(last=False)[1].leave()
        return visitor

    def forget(self, key: str) -> None:
        """Drop all that is kept of a visitor."""
        with self._lock:
            visitor = self._visitors.pop(key, None)
        if visitor is not None:
            visitor.leave()

    def limit_caches(self) -> None:
        """Free the KV caches of all but those who were here last. Only who has the model to itself may ask for this."""
        with self._lock:
            visitors = list(self._visitors.values())
        for visitor in visitors[: -self._most_caches]:
            if visitor.chat is not None:
                visitor.chat.drop_cache()
