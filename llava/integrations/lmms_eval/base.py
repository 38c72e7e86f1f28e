"""From lmms-eval's requests to messages with pictures, and back to answers: what the models here share."""

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import Instance, TokenCounts
from lmms_eval.api.model import lmms
from PIL.Image import Image
from tqdm import tqdm

from llava.errors import InputError
from llava.eval.run.processes import end_with_parent
from llava.inference.options import decoding

IN_MEMORY = 64  # requests whose pictures are decoded at once
MAX_NEW_TOKENS = 1024  # of tasks that set none, as in lmms-eval's LLaVA adapter
FEWSHOT_DELIMITER = "\n\n"  # lmms-eval ends answers here where a task says nothing, which would cut long ones
_HEEDED = {"until", "temperature", "top_p", "num_beams", "max_new_tokens", "do_sample"}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Message:
    """What one request asks.

    Attributes:
        text: as the task has it, with or without placeholders for pictures.
        pictures: PIL images or files; the same object where it is the same picture as that of the request before.
        name: what messages call the request.
    """

    text: str
    pictures: tuple
    name: str


@dataclass
class Shown(TokenCounts):
    """What a sample notes of its request: a digest of the pictures, by which questions about the same are known."""

    picture: str = ""

    def to_dict(self) -> dict:
        return super().to_dict() | {"picture": self.picture}


class PrunedModel(lmms):
    """A model of lmms-eval that answers messages with pictures; each process of a run has its own."""

    is_simple = True

    def __init__(self, batch_size: int | None) -> None:
        super().__init__()
        end_with_parent()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.batch_size = batch_size
        self._last: tuple[tuple | None, tuple, str] = None, (), ""  # the last document, its pictures, their digest
        self._ignored: set[str] = set()

    @abstractmethod
    def answer(self, messages: list[Message], options: dict) -> list[str]:
        """The answer to each message; `options` are transformers' generation options."""

    @abstractmethod
    def answer_losses(self, messages: list[Message], answers: list[str]) -> list[tuple[float, bool]]:
        """Of each given answer the mean loss of its tokens, and whether it is the greedy one."""

    @property
    def device(self):
        """Where lmms-eval puts what the processes of a run exchange."""
        return self.accelerator.device

    def own_device(self, device: str | None) -> str:
        """Where this process' model goes: `device`, or where several processes run, the one that is its own."""
        return str(self.accelerator.device) if self.world_size > 1 else device or "cuda"

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answer to each request, in order, up to the first text that its task wants to end it."""
        answers, left = [], iter(requests)
        for window in self._windows(requests):
            asked = []
            for context, options, to_visual, doc_id, task, split in window:
                pictures = self._pictures_of(to_visual, doc_id, task, split)
                next(left).token_counts.append(Shown(picture=self._last[2]))  # the first is what the sample has
                asked.append((Message(context, pictures, _name(task, doc_id)), options))
            answers += self._answer(asked)
        return answers

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """The answers to each request, one a round. The task makes the next round's message of the answers so far."""
        answers = []
        for window in self._windows(requests):
            dialogues = []
            for context, options, to_visual, to_text, doc_id, task, split in window:
                first = Message(context, self._pictures_of(to_visual, doc_id, task, split), _name(task, doc_id))
                dialogues.append(_Dialogue(first, options, to_text, self.task_dict[task][split][doc_id]))
            while waiting := [dialogue for dialogue in dialogues if dialogue.message is not None]:
                texts = self._answer([(dialogue.message, dialogue.options) for dialogue in waiting])
                for dialogue, text in zip(waiting, texts, strict=True):
                    dialogue.take(text)
            answers += [dialogue.answers for dialogue in dialogues]
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of each answer that a request gives the mean loss, as lmms-eval's scorer wants it: the lowest is taken."""
        losses = []
        for window in self._windows(requests):
            messages, answers = [], []
            for context, target, to_visual, doc_id, task, split in window:
                pictures = self._pictures_of(to_visual, doc_id, task, split)
                messages.append(Message(context, pictures, _name(task, doc_id)))
                answers.append(target if isinstance(target, str) else target(self.task_dict[task][split][doc_id]))
            losses += self.answer_losses(messages, answers)
        return losses

    def _windows(self, requests: list[Instance]) -> Iterator[list[tuple]]:
        """The arguments of requests, of so many at a time that their pictures fit into memory."""
        size = max(IN_MEMORY, self.batch_size or 0)
        with tqdm(total=len(requests), desc="answering", disable=self.rank > 0) as progress:
            for start in range(0, len(requests), size):
                window = [request.args for request in requests[start : start + size]]
                yield window
                progress.update(len(window))

    def _pictures_of(self, to_visual: Callable, doc_id: Any, task: str, split: str) -> tuple:
        """A document's pictures, the same objects as long as requests are about it, or about the same pictures."""
        document = task, split, doc_id
        known, before, digest = self._last
        if document != known:
            pictures = as_pictures(to_visual(self.task_dict[task][split][doc_id]), _name(task, doc_id))
            now = tuple(next((old for old in before if old == new), new) for new in pictures)
            is_same = len(now) == len(before) and all(new is old for new, old in zip(now, before))
            before, digest = now, digest if is_same else picture_digest(now)
            self._last = document, before, digest
        return before

    def _answer(self, asked: list[tuple[Message, dict]]) -> list[str]:
        """The answers to messages, each with lmms-eval's generation options."""
        answers = []
        for _, group in groupby(asked, key=lambda pair: repr(sorted(pair[1].items()))):
            messages, (given, *_) = zip(*group)
            if new := given.keys() - _HEEDED - self._ignored:
                logger.warning("generation options without effect: %s", ", ".join(sorted(new)))
                self._ignored |= new
            until = given.get("until") or ()
            until = (until,) if isinstance(until, str) else until
            for text in self.answer(list(messages), decoding_options(given)):
                answers.append(cut(text, [end for end in until if end and end != FEWSHOT_DELIMITER]))
        return answers


class _Dialogue:
    """A request of several rounds: the message to answer next, None at the end, and the answers so far."""

    def __init__(self, first: Message, options: dict, to_text: Callable, document: dict) -> None:
        self.message: Message | None = first
        self.options, self._to_text, self._document = options, to_text, document
        self.answers: list[str] = []
        self._round, self._info = 0, None

    def take(self, answer: str) -> None:
        """Add an answer and let the task say how to go on."""
        self._round += 1
        visuals, context, is_over, answers, self._info = self._to_text(
            self._document,
            previous_output=[*self.answers, answer],
            round_idx=self._round,
            previous_round_info=self._info,
        )
        self.answers = list(answers)
        name = self.message.name
        self.message = None if is_over else Message(context, as_pictures(visuals, name), name)


def as_pictures(visuals: list | None, name: str) -> tuple:
    """The pictures that a task gives with a document, none if it has no pictures.

    Raises InputError, naming the document, for anything but pictures, such as sound.
    """
    pictures = tuple(visual for visual in visuals or () if visual is not None)
    for picture in pictures:
        if not isinstance(picture, Image | Path | str | bytes):
            raise InputError(f"{name}: this model takes pictures, not {type(picture).__name__}")
    return pictures


def picture_digest(pictures: tuple) -> str:
    """A digest of pictures, of files their names, by which the same ones are known in other runs; "" for none."""
    digest = hashlib.sha256()
    for picture in pictures:
        if isinstance(picture, Image):
            digest.update(f"{picture.mode} {picture.size}".encode())
            digest.update(picture.tobytes())
        else:
            digest.update(picture if isinstance(picture, bytes) else str(picture).encode())
    return digest.hexdigest()[:16] if pictures else ""


def decoding_options(given: dict) -> dict:
    """A task's generation options in transformers' terms; greedy unless it sets a temperature or `do_sample`."""
    temperature = given.get("temperature", 1 if given.get("do_sample") else 0) or 0
    if given.get("do_sample") is False:
        temperature = 0
    top_p = given.get("top_p") if temperature else None
    return decoding(temperature, top_p, given.get("num_beams") or 1, given.get("max_new_tokens") or MAX_NEW_TOKENS)


def cut(text: str, until: list[str]) -> str:
    """An answer up to the first of the texts that end it."""
    for end in until:
        text = text.split(end, 1)[0]
    return text


def _name(task: str, doc_id: Any) -> str:
    return f"document {doc_id} of {task}"
