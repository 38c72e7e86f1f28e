"""From a request's images to visual tokens: decoded ahead of the model, and each encoded once.

Shapes: D model channels.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.errors import InputError
from llava.inference.memory import is_out_of_memory, refuse_too_large
from llava.inference.request import Request
from llava.model import encode as door
from llava.model.encode import Encoded
from llava.model.question import questions_of
from llava.model.splice import PlacedTokens
from llava.pruning import Settings
from llava.vision.pictures import is_data_uri, read_picture
from llava.vision.pixels import process_images

MOST_HELD = 64  # encoded images that wait for requests to come


def open_image(image, name: str, as_displayed: bool = True) -> Image.Image:
    """A request's image as RGB; `as_displayed` is the request's.

    Raises InputError, naming the file or else the request, if it cannot be read.
    """
    has_name = isinstance(image, Path) or (isinstance(image, str) and not is_data_uri(image))
    return read_picture(image, None if has_name else f"of {name}", as_displayed)


def to_pixels(image: Image.Image, name: str, image_processor, config) -> torch.Tensor:
    """An image's (3, H, W) or (crops, 3, H, W) pixels. Raises InputError, naming the request, if it is too large."""
    try:
        return process_images([image], image_processor, config)[0]
    except InputError as error:
        raise InputError(f"cannot use the image of {name}: {error}") from error


@dataclass(frozen=True)
class Decoded:
    """An image that waits to be encoded: (3, H, W) or (crops, 3, H, W) float32 pixels, and its (width, height)."""

    pixels: torch.Tensor
    size: tuple[int, int]


def decode_image(loaded: tuple, image, name: str, as_displayed: bool = True) -> Decoded:
    """An image of the request `name` as far as it comes without the model. Raises InputError, as `encode_images`."""
    _, model, image_processor, _ = loaded
    opened = open_image(image, name, as_displayed)
    return Decoded(to_pixels(opened, name, image_processor, model.config), opened.size)


def encode_images(loaded: tuple, images: Iterable, name: str, as_displayed: bool = True) -> list[Encoded]:
    """The images of one request or message, encoded; those that are `Encoded` stay as they are.

    Messages call the request `name`. They are decoded one at a time: a small file can be a huge picture.
    Raises InputError, naming it, if an image cannot be read or encoded.
    """
    images = list(images)
    new, pixels, sizes = [i for i, image in enumerate(images) if not isinstance(image, Encoded)], [], []
    for i in new:
        image = images[i]
        decoded = image if isinstance(image, Decoded) else decode_image(loaded, image, name, as_displayed)
        pixels.append(decoded.pixels)
        sizes.append(decoded.size)
    for i, encoded in zip(new, _encode(loaded[1], pixels, sizes), strict=True):
        images[i] = encoded
    return images


@torch.inference_mode()
def _encode(model, pixels: list[torch.Tensor], sizes: list[tuple[int, int]]) -> list[Encoded]:
    return _at_once_or_one_by_one(lambda some: door.encode(model, pixels[some], sizes[some]), len(pixels))


@torch.inference_mode()
def choose_tokens(
    model, encoded: list[Encoded], pruning: Settings, questions: Sequence[str] | None = None
) -> list[torch.Tensor | PlacedTokens]:
    """The visual tokens (length, D) of each image, as `llava.model.encode.visual_tokens` has them.

    `questions` is what is asked about each image, for methods that choose by it.
    Raises InputError if the method cannot work, or memory runs out.
    """
    asked = [""] * len(encoded) if questions is None else questions
    return _at_once_or_one_by_one(
        lambda some: door.visual_tokens(model, encoded[some], pruning, asked[some]), len(encoded)
    )


def _at_once_or_one_by_one(make: Callable[[slice], list], number: int) -> list:
    """What `make` gives for so many images: for all of them, or for each where memory does not allow that."""
    if number > 1:
        try:
            return make(slice(None))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
    with refuse_too_large("one image"):
        return [made for i in range(number) for made in make(slice(i, i + 1))]


def questions_about(request: Request, tokenizer) -> list[str]:
    """What a request asks about each of its images."""
    if request.question is not None:
        return [request.question] * len(request.images)
    return questions_of(tokenizer_image_token(request.prompt, tokenizer, return_tensors="pt"), tokenizer)


class ImageStream:
    """The visual tokens of one request after another; an image is decoded and encoded once.

    What the tower said of an image is kept from the first request about it to the last, of at most 64 images: those
    that were asked about longest ago go first. So requests about one image should be near each other. Images are
    decoded by `num_workers` threads ahead of the model. Every request must have its pruning settings.
    """

    def __init__(self, loaded: tuple, requests: list[Request], num_workers: int) -> None:
        self._tokenizer, self._model, image_processor, _ = loaded
        self._steps = iter(_plan(requests))
        new = (image for step in _plan(requests) for image in step.new.values())
        self._decoded = map_ahead(_Pixels(image_processor, self._model.config), new, num_workers)
        self._encoded: dict[tuple, Encoded] = {}
        self._chosen: dict[tuple, torch.Tensor | PlacedTokens] = {}  # by image, settings and question

    def next_batch(self, batch: list[Request]) -> list[list[torch.Tensor | PlacedTokens]]:
        """The visual tokens (length, D) of the images of the next requests; the same choice is the same tensor.

        The requests of `batch` have the same settings. Raises InputError if an image cannot be read or encoded.
        """
        steps = [next(self._steps) for _ in batch]
        self._encode_new([key for step in steps for key in step.new])
        pruning, wanted = batch[0].pruning, []
        for request in batch:
            by_question = questions_about(request, self._tokenizer) if pruning.question_views else None
            asked = by_question or [""] * len(request.images)
            wanted.append([(key, pruning, text) for key, text in zip(_keys(request), asked, strict=True)])
        choices = dict.fromkeys(choice for of_request in wanted for choice in of_request)
        new = [choice for choice in choices if choice not in self._chosen]
        encoded, questions = [self._encoded[key] for key, *_ in new], [asked for *_, asked in new]
        self._chosen |= zip(new, choose_tokens(self._model, encoded, pruning, questions), strict=True)
        tokens = [[self._chosen[choice] for choice in of_request] for of_request in wanted]
        done: set[tuple] = set()
        for step in steps:
            done = (done - step.new.keys()) | set(step.last)
        self._encoded = {key: image for key, image in self._encoded.items() if key not in done}
        self._chosen = {
            choice: own for choice, own in self._chosen.items() if choice[0] in self._encoded and not choice[2]
        }
        return tokens

    def _encode_new(self, keys: list[tuple]) -> None:
        """Encode the images of these keys, the next that are decoded."""
        decoded = [next(self._decoded) for _ in keys]
        for found in decoded:
            if isinstance(found, InputError):
                raise found
        if decoded:
            self._encoded |= zip(keys, _encode(self._model, *map(list, zip(*decoded))), strict=True)


@dataclass(frozen=True)
class _Step:
    """What one request does to the encoded images that are held.

    Attributes:
        new: (image, name, as_displayed) of those that are to be encoded, by key.
        last: the keys of those that are not needed afterwards.
    """

    new: dict[tuple, tuple]
    last: list[tuple]


def _plan(requests: list[Request]) -> Iterator[_Step]:
    """For each request the images that come and go."""
    left = Counter(key for request in requests for key in set(_keys(request)))
    held: dict[tuple, None] = {}  # the last that was asked about at the end
    for request in requests:
        images = dict(zip(_keys(request), request.images))
        new = {key: (image, request.name, request.as_displayed) for key, image in images.items() if key not in held}
        for key in images:
            held.pop(key, None)
            held[key] = None
        left.subtract(images.keys())
        last = [key for key in images if not left[key]]
        oldest = [key for key in held if key not in images]
        last += oldest[: max(0, len(held) - MOST_HELD)]
        for key in last:
            del held[key]
        yield _Step(new, last)


def _keys(request: Request) -> list[tuple]:
    """The keys of a request's images: equal for the same file, while two PIL images count as two images."""
    return [(id(image) if isinstance(image, Image.Image) else image, request.as_displayed) for image in request.images]


class _Pixels:
    """From (image, name, as_displayed) of a request to pixels and size; for what cannot be read to the error itself."""

    def __init__(self, image_processor, config) -> None:
        self.image_processor, self.config = image_processor, config

    def __call__(self, item: tuple) -> tuple | InputError:
        source, name, as_displayed = item
        try:
            image = open_image(source, name, as_displayed)
            return to_pixels(image, name, self.image_processor, self.config), image.size
        except InputError as error:
            return error


def map_ahead(function: Callable, items: Iterable, num_workers: int, ahead: int = 8) -> Iterator[Any]:
    """`function` of each item, in order, computed by `num_workers` threads up to `ahead` items each before it is taken.

    Threads, not processes: Pillow decodes and resizes without Python's lock, and a thread ends with its process
    however that ends. A process would outlive it, with the locks and connections that it was forked with.
    """
    if not num_workers:
        yield from map(function, items)
        return
    pool, waiting = ThreadPoolExecutor(num_workers, "decoding"), deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
