"""How the answers of the page come: each in its turn, piece by piece, with what it took in the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from llava.errors import InputError
from llava.pruning import Settings
from llava.pruning.method import NONE
from llava.serve.page.transcript import Answer, Column, Exchange, Figures
from llava.serve.page.visitors import Visitor
from llava.serve.queue import Place, Queue

if TYPE_CHECKING:
    from llava.model.encode import Encoded
    from llava.serve.page.local_model import LocalModel
    from llava.serve.page.vllm_server import VllmServer


class Answering:
    """Fills in what visitors have asked, from the model or from a server.

    Its methods yield when something has changed, and again and again while an answer waits for its turn.
    """

    def __init__(
        self,
        model: LocalModel | None,
        server: VllmServer | None,
        patches: int,
        queue: Queue,
        answered: Callable[[], None],
    ) -> None:
        """As `Service` has them, `patches` is N of a crop; `answered` is called at the end of each turn."""
        self._model, self._server, self._patches, self._queue, self._answered = model, server, patches, queue, answered

    def exchange(
        self, visitor: Visitor, exchange: Exchange, pruning: Settings, options: dict | None, compare: bool, again: bool
    ) -> Iterator[None]:
        """Add an exchange to the conversation and fill it in; one that has no answer in the end is taken out again.

        With `compare` it is answered without pruning too; with `again` it takes the place of the last one.
        """
        with self._place() as place:
            yield from self._exchange(visitor, place, exchange, pruning, options, compare, again)
            self._answered()

    def columns(
        self, visitor: Visitor, question: str, columns: Iterable[Column], options: dict | None
    ) -> Iterator[Column]:
        """Fill in the columns of a comparison, each in a turn of its own; yields the one that has changed."""
        for column in columns:
            if not column.answer.is_asked:
                break
            try:
                with self._place() as place:
                    for _ in self._column(visitor, place, question, column, options):
                        yield column
                    self._answered()
            except ValueError as error:  # InputError is one
                column.error = error
            yield column

    def _place(self) -> AbstractContextManager[Place | None]:
        """A place in the queue; None for a server, which answers many at once, and has a queue of its own."""
        return self._queue.enter() if self._server is None else nullcontext()

    def _exchange(
        self,
        visitor: Visitor,
        place: Place | None,
        exchange: Exchange,
        pruning: Settings,
        options: dict | None,
        compare: bool,
        again: bool,
    ) -> Iterator[None]:
        if again and visitor.exchanges:
            *visitor.exchanges, exchange.former = visitor.exchanges
        again = exchange.former is not None
        visitor.exchanges = [*visitor.exchanges, exchange]
        try:
            yield from self._wait(place, exchange.pruned)
            chat, encoded = visitor.chat, visitor.encoded
            pieces = chat.stream(exchange.question, pruning, options, again)
            yield from self._fill(exchange.pruned, pieces, encoded, pruning)
        finally:
            if not exchange.pruned.is_done:
                visitor.take_back(exchange)
        if not exchange.pruned.is_done:  # it was stopped
            return
        exchange.former, exchange.unpruned.figures = None, chat.unpruned_figures()
        if compare:
            exchange.unpruned.is_asked = True
            whole = replace(pruning, visual_token_num=self._patches, pruning_method=NONE)
            try:
                yield from self._fill(
                    exchange.unpruned, chat.stream_unpruned(exchange.question, options), encoded, whole
                )
            except InputError as error:
                exchange.unpruned.text = f"This cannot be answered without pruning: {error}."
            finally:
                exchange.unpruned.is_done = True
        yield

    def _column(
        self, visitor: Visitor, place: Place | None, question: str, column: Column, options: dict | None
    ) -> Iterator[None]:
        yield from self._wait(place, column.answer)
        chat, encoded = visitor.open_chat(), visitor.encoded
        pieces = chat.stream(question, column.pruning, options)
        yield from self._fill(column.answer, pieces, encoded, column.pruning)
        if column.answer.is_done:
            column.unpruned, column.kept = chat.unpruned_figures(), chat.kept

    def _wait(self, place: Place | None, answer: Answer) -> Iterator[None]:
        """Until it is an answer's turn, or nobody asks for it any more."""
        while place is not None and answer.is_asked and not place.wait(0.5):
            before = place.before
            answer.waiting = "You are next." if before == 1 else f"Waiting: {before} before you."
            yield
        answer.waiting = ""

    def _fill(
        self,
        answer: Answer,
        pieces: Generator[str, None, tuple[str, Figures]],
        encoded: Encoded | None,
        pruning: Settings,
    ) -> Iterator[None]:
        """Add the pieces of an answer as they come, and in the end what it took, unless it is stopped."""
        with closing(pieces):
            if answer.is_asked:
                yield
            while answer.is_asked:
                try:
                    answer.text += next(pieces)
                except StopIteration as end:
                    answer.text, figures = end.value
                    break
                yield
            else:
                return
        is_counted = self._server is not None and self._server.pruning.is_known and figures.prompt_tokens is not None
        if is_counted and encoded is not None:
            visual = self._model.count_visual_tokens(encoded, pruning)
            figures = replace(figures, **self._model.arithmetic(figures.prompt_tokens, visual, pruning))
        answer.figures, answer.is_done = figures, True
