"""What is wrong with questions, found before the first is answered: each that cannot be asked, by its id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import InputError
from llava.eval.benchmarks.questions import Question
from llava.vision.grids import is_anyres

if TYPE_CHECKING:
    from llava.inference.request import Request
    from llava.model.builder import LoadedModel

MOST_NAMED = 20


def describe_faults(faults: list[tuple[object, str]]) -> str:
    """What is wrong, from one or more (question's id, message): the first message, and the other ids."""
    message, others = faults[0][1], [f"{question_id}" for question_id, _ in faults[1:]]
    if others:
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        message += f"; {len(others)} more cannot be asked: question {', '.join(others[:MOST_NAMED])}{more}"
    return message


def refuse(faults: list[tuple[object, str]]) -> None:
    """Raise InputError if there are faults; see `describe_faults`."""
    if faults:
        raise InputError(describe_faults(faults))


def check_questions(questions: Iterable[Question]) -> None:
    """Raise InputError, naming them, if questions' texts have an `<image>` in them, which marks a picture."""
    refuse(
        [
            (question.question_id, f"question {question.question_id} has {DEFAULT_IMAGE_TOKEN} in its text")
            for question in questions
            if DEFAULT_IMAGE_TOKEN in question.asked
        ]
    )


def check_headers(questions: Iterable[Question]) -> None:
    """Open every image without decoding it. Raises InputError, naming those that are missing or no image."""
    with ThreadPoolExecutor() as pool:
        _refuse_failed(_on_each_image(pool, image_size, questions))


@contextmanager
def decoding_images(questions: Iterable[Question]) -> Iterator[Callable[[], None]]:
    """Decode every image once, on all cores, while the body runs; it calls what it gets to wait for the end.

    That raises InputError, naming those that are missing, truncated or no image.
    """
    from llava.inference.images import open_image

    pool = ThreadPoolExecutor()
    try:
        started = _on_each_image(
            pool, lambda image, name: open_image(image, name, as_displayed=False).close(), questions
        )
        yield lambda: _refuse_failed(started)
    finally:
        pool.shutdown(cancel_futures=True)


def _on_each_image(
    pool: ThreadPoolExecutor, work: Callable, questions: Iterable[Question]
) -> list[tuple[Question, Future]]:
    """Start `work(image, name of the question)` for each image of the questions."""
    images = {question.image: question for question in questions if question.image is not None}

    def look(image: Path | bytes, name: str) -> None:
        work(image, name)  # what it returns is not kept: pictures take memory

    return [(q, pool.submit(look, image, f"question {q.question_id}")) for image, q in images.items()]


def _refuse_failed(started: list[tuple[Question, Future]]) -> None:
    faults = []
    for question, future in started:
        try:
            future.result()
        except InputError as error:
            faults.append((question.question_id, str(error)))
    refuse(faults)


def image_size(image: Path | bytes, name: str) -> tuple[int, int]:
    """Width and height of an image, from its header. Raises InputError, naming the file or else the question."""
    from llava.vision.pictures import picture_size

    return picture_size(image, f"of {name}" if isinstance(image, bytes) else None)


def check_lengths(loaded: LoadedModel, questions: list[Question], requests: list[Request]) -> None:
    """Raise InputError, naming them, if prompts are longer than the context; `requests` are those of `questions`.

    Where it depends on what is kept of an image how many visual tokens enter the model, the least that may is counted.
    """
    from llava.checkpoints.tokenizer import tokenizer_image_token
    from llava.inference.memory import most_visual_tokens

    model, faults = loaded.model, []
    limit = model.config.max_position_embeddings
    for question, request in zip(questions, requests, strict=True):
        request = request.with_settings(model.pruning)
        images, pruning = len(request.images), request.pruning
        # No tokenizer makes more than a token of a byte, but for the few characters that it writes out.
        if 2 * len(request.prompt.encode("utf-8", "replace")) + images * most_visual_tokens(model, pruning) <= limit:
            continue
        length = len(tokenizer_image_token(request.prompt, loaded.tokenizer)) - images
        length += sum(_least_visual_tokens(loaded, image, pruning, request.name) for image in request.images)
        if length > limit:
            says = f"{request.name} is longer than the context: {length} tokens, the model takes {limit}"
            faults.append((question.question_id, says))
    refuse(faults)


def _least_visual_tokens(loaded: LoadedModel, image: Path | bytes, pruning, name: str) -> int:
    """The visual tokens of an image in a prompt, or as many as there are at least."""
    from llava.model.anyres import count_merged_tokens
    from llava.pruning.method import METHOD_NAMES

    config, tower = loaded.model.config, loaded.model.get_vision_tower()
    if pruning.prunes_before_decoder:
        if pruning.pruning_method not in METHOD_NAMES:  # it may keep fewer than the budget
            return 1
        kept = pruning.kept(tower.num_patches)
        if not is_anyres(config.image_aspect_ratio) or "unpad" in config.mm_patch_merge_type:
            return kept
        return kept * count_merged_tokens(image_size(image, name), config, 1, loaded.image_processor)
    size = image_size(image, name)
    return count_merged_tokens(size, config, tower.num_patches_per_side, loaded.image_processor)
