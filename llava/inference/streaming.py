"""An answer piece by piece, while it is generated: with stop texts, an end on request, and a seed of its own."""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

import torch
from transformers import (
    LogitsProcessor,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llava.errors import InputError


class PromptTooLong(InputError):
    """The prompt with its images in place is longer than the context."""


class Event(Protocol):
    """What `threading.Event` has of use here."""

    def is_set(self) -> bool: ...


def uses_beams(options: dict) -> bool:
    """Whether these generation options ask for beam search, which has no token to show before the end."""
    return (options.get("num_beams") or 1) > 1


class AnswerStream(Iterator[str]):
    """The pieces of one answer, as it is generated; together they are `text`.

    Attributes:
        prompt_tokens: tokens of the prompt, visual tokens included.
        next_position: where the answer begins in the context, which may be beyond the tokens.
        text: the whole answer, without space around it; empty before the end.
        completion_tokens: tokens generated, the end-of-sequence token and those of a stop text included; 0 before the
            end.
        finish_reason: `stop` where the answer came to its end, `length` where the limit cut it off; None before the
            end, and for an answer that was cancelled.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        generate: Callable[..., torch.LongTensor],
        options: dict,
        prompt_tokens: int,
        next_position: int,
        ends: list[int],
        stop: Sequence[str] = (),
        cancelled: Event | None = None,
    ) -> None:
        """`ends` are the ids that end an answer; for the other arguments see `stream_text`."""
        self.prompt_tokens, self.next_position, self.text, self.completion_tokens = prompt_tokens, next_position, "", 0
        self.finish_reason: str | None = None
        self._reader, self._ends, self._cancelled = _Reader(tokenizer, tuple(stop)), ends, cancelled
        self._pieces = stream_text(tokenizer, generate, options, stop, cancelled)

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            if end.value is not None:
                self._end(end.value[0].tolist())
            raise

    def close(self) -> None:
        """End generation with its next token; nothing more comes."""
        self._pieces.close()

    def _end(self, ids: list[int]) -> None:
        text, is_stopped = self._reader.read(ids)
        self.text, self.completion_tokens = text.rstrip(), len(ids)
        if self._cancelled is None or not self._cancelled.is_set():
            is_ended = bool(ids) and ids[-1] in self._ends
            self.finish_reason = "stop" if is_stopped or is_ended else "length"


def stream_text(
    tokenizer: PreTrainedTokenizerBase,
    generate: Callable[..., torch.LongTensor],
    options: dict,
    stop: Sequence[str] = (),
    cancelled: Event | None = None,
) -> Generator[str, None, torch.LongTensor]:
    """Yield the text of one answer as it is generated, with beams as one piece; returns what `generate` returns.

    Generation begins when the first piece is asked for, in another thread; what it raises is raised here. Held back is
    what the next token may change: incomplete characters, space that may turn out to be the last, and what a stop text
    may begin with. A consumer that closes the generator ends generation with its next token.

    Args:
        tokenizer: the model's.
        generate: takes generation options, and returns the ids (1, new) of the answer.
        options: transformers' generation options.
        stop: texts that end the answer, which goes up to the first of them.
        cancelled: when it is set, generation ends with its next token.
    """
    reader, cancelled = _Reader(tokenizer, tuple(stop)), cancelled or threading.Event()
    growing = _Growing(reader, cancelled, not uses_beams(options))
    criteria = StoppingCriteriaList([*(options.get("stopping_criteria") or []), growing])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(generate, **options | {"stopping_criteria": criteria})
        answer.add_done_callback(lambda _: growing.pieces.put(None))  # after an error too
        try:
            yield from iter(growing.pieces.get, None)
        finally:
            growing.is_left.set()
        output_ids = answer.result()
    text, _ = reader.read(output_ids[0].tolist())
    if (rest := text.rstrip()[growing.sent :]) and not cancelled.is_set():
        yield rest
    return output_ids


@dataclass(frozen=True)
class _Reader:
    """Makes text of an answer's ids."""

    tokenizer: PreTrainedTokenizerBase
    stop: tuple[str, ...]

    def read(self, ids: list[int]) -> tuple[str, bool]:
        """The text up to the first stop text, without space before it, and whether there is a stop text."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        places = [place for place in map(text.find, self.stop) if place >= 0]
        return text[: min(places, default=len(text))].lstrip(), bool(places)

    def settled(self, text: str) -> str:
        """What of a growing text the next tokens cannot change."""
        held = max(map(len, self.stop), default=1) - 1
        return text[: len(text) - held].rstrip().rstrip("\ufffd").rstrip()  # the bytes of half a character


class _Growing(StoppingCriteria):
    """Puts what is new of a growing answer into `pieces`; ends it at a stop text or when the consumer is gone.

    Attributes:
        pieces: text that the next tokens cannot change.
        sent: characters in all of them.
        is_left: set it to end generation.
    """

    def __init__(self, reader: _Reader, cancelled: Event, is_shown: bool) -> None:
        """`is_shown` says whether there is text to show before the end."""
        self.pieces: SimpleQueue[str | None] = SimpleQueue()
        self.sent, self.is_left = 0, threading.Event()
        self._reader, self._cancelled, self._is_shown = reader, cancelled, is_shown

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        """(1, length) ids generated so far -> (1,) bool; with beams (beams, length) -> (beams,)."""
        is_done = self.is_left.is_set() or self._cancelled.is_set()
        if self._is_shown and not is_done:
            text, is_done = self._reader.read(input_ids[0].tolist())
            piece = "" if is_done else self._reader.settled(text)[self.sent :]
            if piece:
                self.pieces.put(piece)
                self.sent += len(piece)
        return torch.full((len(input_ids),), is_done, device=input_ids.device)


class Draw(LogitsProcessor):
    """Draws each token, with a random generator of this answer's own, and leaves only that one to be chosen.

    transformers draws from torch's one generator: answers with a seed would depend on what else is being answered. For
    greedy decoding of one prompt (`do_sample=False`).
    """

    def __init__(self, temperature: float, top_p: float = 1.0, top_k: int = 0, seed: int | None = None) -> None:
        """`temperature` is above 0; a `top_k` of 0 is no limit; without a seed every answer is drawn anew."""
        warpers = [TemperatureLogitsWarper(float(temperature))]
        warpers += [TopKLogitsWarper(top_k)] if top_k else []
        self._warpers = warpers + ([TopPLogitsWarper(top_p)] if top_p < 1 else [])
        self._seed, self._generator = seed, None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(1, vocabulary) scores -> the same shape, -inf for all but one."""
        if self._generator is None:
            self._generator = torch.Generator(scores.device)
            if self._seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self._seed)
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        drawn = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)
