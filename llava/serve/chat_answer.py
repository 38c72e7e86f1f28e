"""The answer to a chat request: generated in one thread, which passes on each piece and can be told to stop."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llava.download import fetch, without_login
from llava.inference.memory import refuse_too_large
from llava.inference.pictures import choose_tokens, encode_images, questions_about
from llava.inference.prefix_sharing import generate_batch
from llava.inference.request import Request
from llava.mm_utils import tokenizer_image_token
from llava.pictures import is_data_uri
from llava.serve.chat_messages import ChatError
from llava.serve.chat_request import ChatQuestion, Sampling
from llava.utils import InputError, one_line

MOST_FETCHED = 48 * 2**20  # bytes behind the URLs of one request


@dataclass(frozen=True)
class Begun:
    """The prompt is good. `prompt_tokens` has its visual tokens in it."""

    prompt_tokens: int


@dataclass(frozen=True)
class Done:
    """The whole answer.

    Attributes:
        text: without space around it, up to the first stop text.
        completion_tokens: tokens generated, the end-of-sequence token and those of a stop text included.
        finish_reason: `stop` where the answer came to its end, `length` where the limit cut it off.
    """

    text: str
    completion_tokens: int
    finish_reason: str


def answer(
    loaded: tuple, question: ChatQuestion, turn, gone: threading.Event, emit: Callable[[Begun | str | Done], None]
) -> None:
    """Answer a question: `emit` gets `Begun`, the pieces of the text and `Done`.

    Args:
        loaded: what `load_pretrained_model` returned.
        question: what to answer.
        turn: a context manager, entered while the model works: a semaphore limits how many do at once.
        gone: when it is set, generation ends with its next token and nothing more is done.
        emit: called in this thread.

    Raises InputError for a picture that cannot be read, a prompt or answer longer than the context, and what takes too
    much memory.
    """
    tokenizer, model, _, context = loaded
    request, limit = question.request, question.max_tokens
    ids = tokenizer_image_token(request.prompt, tokenizer, return_tensors="pt")
    _room(len(ids), context, limit)
    # A slow address must not hold up others; a decoded picture takes memory, so that as many are decoded as have turns.
    pictures = _fetch(request.images)
    with turn, refuse_too_large(request.name):
        if gone.is_set():
            return
        visual = _encode(loaded, pictures, request)
        length = len(ids) + sum(len(tokens) - 1 for tokens in visual)
        options = {"max_new_tokens": _room(length, context, limit), "do_sample": False, "num_beams": 1}
        emit(Begun(length))
        pieces = _Pieces(tokenizer, question.stop, gone, emit)
        options["stopping_criteria"] = [pieces]
        if question.sampling.temperature:
            options["logits_processor"] = [Draw(question.sampling)]
        output_ids = generate_batch(model, [ids], [visual], request.pruning, **options)[0].tolist()
    if not gone.is_set():
        text, stopped = pieces.end(output_ids)
        ended = stopped or output_ids[-1] in _ends(model)
        emit(Done(text, len(output_ids), "stop" if ended else "length"))


def _room(length: int, context: int, wanted: int | None) -> int:
    """How many tokens the answer to a prompt of this length may have. Raises ChatError if the context is full."""
    left = context - length
    if left < (wanted or 1):
        answer = f" and the answer may take {wanted}" if wanted else ""
        raise ChatError(
            f"the context is full: it has {context} tokens, the prompt takes {length} of them{answer}",
            "max_tokens" if wanted and left >= 1 else "messages",
            "context_length_exceeded",
        )
    return wanted or left


def _fetch(pictures: tuple[str, ...]) -> list[str | bytes]:
    """Pictures with what is behind http(s) URLs in their place. Raises InputError for what cannot be fetched."""
    fetched, left = [], MOST_FETCHED
    for picture in pictures:
        if not is_data_uri(picture):
            try:
                picture = fetch(picture)
            except (OSError, ValueError) as error:
                raise InputError(f"cannot read the image {without_login(picture)}: {one_line(error)}") from error
            left -= len(picture)
            if left < 0:
                raise InputError(f"the images behind the URLs have more than {MOST_FETCHED // 2**20} MB together")
        fetched.append(picture)
    return fetched


def _encode(loaded: tuple, pictures: list[str | bytes], request: Request) -> list[torch.Tensor]:
    """The visual tokens (length, D) of each picture."""
    encoded = encode_images(loaded, pictures, request.name, request.as_displayed)
    return choose_tokens(loaded[1], encoded, request.pruning, questions_about(request, loaded[0]))


def _ends(model) -> list[int]:
    """The ids that end an answer."""
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


class _Pieces(StoppingCriteria):
    """Passes on the text of one answer as it grows, and ends it at a stop text or when nobody listens.

    What is held back is what the next token may change: an incomplete character, space that may turn out to be the
    last, and what a stop text may begin with.
    """

    def __init__(self, tokenizer, stop: tuple[str, ...], gone: threading.Event, emit: Callable[[str], None]) -> None:
        self._tokenizer, self._stop, self._gone, self._emit = tokenizer, stop, gone, emit
        self._held = max(map(len, stop), default=1) - 1
        self._sent = 0

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        """(1, length) ids generated so far -> (1,) bool."""
        text, stopped = self._read(input_ids[0].tolist())
        if not stopped:
            self._send(text[: len(text) - self._held].rstrip().removesuffix("\ufffd"))
        return torch.full((len(input_ids),), stopped or self._gone.is_set(), device=input_ids.device)

    def end(self, ids: list[int]) -> tuple[str, bool]:
        """Pass on the rest. Returns the whole text, and whether a stop text ended it."""
        text, stopped = self._read(ids)
        self._send(text.rstrip())
        return text.rstrip(), stopped

    def _read(self, ids: list[int]) -> tuple[str, bool]:
        """The text up to the first stop text, and whether there is one."""
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        places = [place for place in map(text.find, self._stop) if place >= 0]
        return text[: min(places, default=len(text))].lstrip(), bool(places)

    def _send(self, text: str) -> None:
        if len(text) > self._sent:
            self._emit(text[self._sent :])
            self._sent = len(text)


class Draw(LogitsProcessor):
    """Draws each token, with a random generator of this request's own, and leaves only that one to be chosen.

    transformers draws from torch's one generator: answers with a seed would depend on what else is being answered.
    """

    def __init__(self, sampling: Sampling) -> None:
        warpers = [TemperatureLogitsWarper(sampling.temperature)]
        warpers += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
        self._warpers = warpers + ([TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else [])
        self._seed, self._generator = sampling.seed, None

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
