"""`Engine`: a loaded model that answers lists of requests in batches, and streams single ones."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import PIL.Image
import torch

from llava.checkpoints.folders import get_model_name_from_path
from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.errors import InputError
from llava.inference.generation import one_text_options
from llava.inference.images import ImageStream, choose_tokens, encode_images, questions_about
from llava.inference.memory import default_batch_size, is_out_of_memory, refuse_too_large
from llava.inference.prefix_sharing import generate_batch
from llava.inference.request import Completion, Request, make_request
from llava.inference.session import Session
from llava.inference.streaming import AnswerStream, Event, PromptTooLong
from llava.model.builder import LoadedModel, as_loaded, load_pretrained_model
from llava.pruning.settings import Settings, take_settings

Image = str | Path | bytes | PIL.Image.Image
logger = logging.getLogger(__name__)


class Engine:
    """A loaded model that answers requests."""

    def __init__(self, loaded: LoadedModel, batch_size: int | None = None, num_workers: int = 0) -> None:
        """
        Args:
            loaded: what `load_pretrained_model` returned.
            batch_size: requests answered at once; None for as many as free memory allows.
            num_workers: threads that decode images ahead of the model.
        """
        self.loaded, self.batch_size, self.num_workers = as_loaded(loaded), batch_size, num_workers
        self.tokenizer, self.model, *_ = self.loaded

    @classmethod
    def from_pretrained(
        cls,
        model_path: str | Path,
        model_base: str | None = None,
        *,
        batch_size: int | None = None,
        num_workers: int = 0,
        **options,
    ) -> "Engine":
        """The engine of a checkpoint.

        Args:
            model_path, model_base: folders or hub ids, as `load_pretrained_model` takes them.
            batch_size, num_workers: those of an engine.
            options: what else `load_pretrained_model` takes: the settings of `llava.pruning.Settings`, such as
                `visual_token_num`, and `device`, `dtype`, `load_4bit` and others.

        Raises InputError, naming what is wrong with the checkpoint or an option.
        """
        name = get_model_name_from_path(str(model_path))
        return cls(load_pretrained_model(str(model_path), model_base, name, **options), batch_size, num_workers)

    def ask(self, question: str, images: Image | Sequence[Image] = (), **options) -> str:
        """The answer to one question about an image, several or none.

        Args:
            question, images: as in `request`.
            options: transformers' generation options, and settings of this question by name.

        Raises InputError as `answer` and `request` do.
        """
        return next(self.answer([(question, images)], **options)).text

    def request(
        self, question: str, images: Image | Sequence[Image] = (), pruning: Settings | None = None, **more
    ) -> Request:
        """What asks a question in the checkpoint's prompt template.

        Args:
            question: `<image>` in it marks where each image belongs; without that, images come first.
            images: a file, an http(s) URL, a `data:` URI, a PIL image or an encoded image, or a list of these.
            pruning: the settings of this request; the model's own if None.
            more: the other arguments of `make_request`, `name` and `as_displayed`.

        Raises InputError if there are not as many images as `<image>`.
        """
        several = list(images) if isinstance(images, list | tuple) else [images]
        return make_request(question, several, self.loaded.template, self.model.config, pruning, **more)

    def session(self, conv_mode: str | None = None, **settings) -> Session:
        """A conversation with this model; `settings` are those of `llava.pruning.Settings` by name.

        Raises InputError for an unknown template, TypeError for an unknown setting.
        """
        return Session(self.loaded, conv_mode, replace(self.model.pruning, **settings))

    def answer(self, requests: Iterable[Request | tuple], **options) -> Iterator[Completion]:
        """The completion of each request, in order, as they are made.

        Args:
            requests: `Request`s, or (question, images) as `ask` takes them.
            options: transformers' generation options, and settings by name for requests that have none of their own.

        An image is encoded once for requests near one another, whatever their settings, and what requests with the same
        settings begin with passes through the language model once for those of a batch. For a method that chooses by
        the question they share the encoding alone, and each keeps its own visual tokens. In float32 every answer is the
        one that its request gets alone. A batch has requests of the same settings and number of images; where
        memory runs out, batches shrink.

        Raises InputError if an image cannot be read, a prompt is longer than the context, a pruning method cannot
        work, or one request takes too much memory; before anything runs for an option that `one_text_options` refuses.
        """
        default = take_settings(options, self.model.pruning)
        asked = [request if isinstance(request, Request) else self.request(*request) for request in requests]
        shown = [request.with_settings(default) for request in asked]
        for request, completion in zip(asked, self._answer(shown, options)):
            not_shown = (0,) * (len(request.images) - len(completion.num_visual_tokens))
            yield replace(completion, num_visual_tokens=completion.num_visual_tokens + not_shown)

    def _answer(self, requests: list[Request], options: dict) -> Iterator[Completion]:
        """As `answer`, of requests that have their settings."""
        options = one_text_options(self.model, self.tokenizer, options)
        images = ImageStream(self.loaded, requests, self.num_workers)
        sizes: dict[tuple, int] = {}
        start, limit = 0, len(requests)
        while start < len(requests):
            kind = _kind(requests[start])
            if kind not in sizes:
                sizes[kind] = self.batch_size or default_batch_size(self.model, *kind, options)
            size = min(limit, sizes[kind])
            batch = list(next(groupby(requests[start : start + size], _kind))[1])
            visual, done = images.next_batch(batch), 0
            while done < len(batch):
                part = slice(done, done + size)
                try:
                    completions = self._complete(batch[part], visual[part], options)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    if size == 1:
                        raise InputError(f"{batch[done].name} alone takes too much memory") from error
                    size = limit = (size + 1) // 2
                    logger.warning("out of memory: from here on at most %d requests at once", size)
                    continue
                yield from completions
                done += len(completions)
            start += len(batch)

    def stream(
        self, request: Request, *, stop: Sequence[str] = (), cancelled: Event | None = None, **options
    ) -> AnswerStream:
        """The answer to one request in pieces, as it is generated; with beams it is one piece.

        Args:
            request: what is asked.
            stop: texts that end the answer, which goes up to the first of them.
            cancelled: when it is set, generation ends with its next token.
            options: transformers' generation options. To sample with a seed of its own, `logits_processor=[Draw(...)]`.

        Raises as `answer` does; what is wrong with the prompt or its images shows before the first piece is asked for.
        A prompt longer than the context is `PromptTooLong`.
        """
        options = one_text_options(self.model, self.tokenizer, options)
        if options.get("stop_strings"):
            raise InputError("stop_strings is not taken by a stream: see `stop`")
        request = request.with_settings(self.model.pruning)
        pruning = request.pruning
        ids = tokenizer_image_token(request.prompt, self.tokenizer, return_tensors="pt")
        questions = questions_about(request, self.tokenizer) if pruning.question_views else None
        encoded = encode_images(self.loaded, request.images, request.name, request.as_displayed)
        visual = choose_tokens(self.model, encoded, pruning, questions)
        length = _length(ids, visual)
        try:
            self.model.check_context(length)
        except InputError as error:
            raise PromptTooLong(str(error)) from error

        def generate(**options) -> torch.LongTensor:
            with refuse_too_large(request.name):
                return generate_batch(self.model, [ids], [visual], pruning, **options)

        ends = options.get("eos_token_id", self.model.generation_config.eos_token_id)
        ends = ends if isinstance(ends, list) else [ends]
        return AnswerStream(self.tokenizer, generate, options, length, ends, stop, cancelled)

    def _complete(self, batch: list[Request], visual: list[list[torch.Tensor]], options: dict) -> list[Completion]:
        """The completions of requests of the same settings, whose images have these visual tokens."""
        ids = [tokenizer_image_token(request.prompt, self.tokenizer, return_tensors="pt") for request in batch]
        output_ids = generate_batch(self.model, ids, visual, batch[0].pruning, **options)
        texts = self.tokenizer.batch_decode(output_ids, skip_special_tokens=True)
        return [
            Completion(text.strip(), tuple(map(len, images)), _length(row, images))
            for text, row, images in zip(texts, ids, visual, strict=True)
        ]


def _kind(request: Request) -> tuple:
    """What requests of one batch have in common: the settings and how many images each has."""
    return request.pruning, len(request.images)


def _length(ids: torch.LongTensor, visual: list[torch.Tensor]) -> int:
    """Tokens of a prompt with its images in place."""
    return len(ids) + sum(len(tokens) - 1 for tokens in visual)
