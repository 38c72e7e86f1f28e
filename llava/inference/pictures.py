"""From a request's images to visual tokens: decoded ahead of the model, and encoded once for requests on one image.

`SeenPicture` is one that is kept beyond a request. Shapes: K crops, D model channels.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llava.inference.memory import is_out_of_memory, refuse_too_large
from llava.inference.request import Request
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.question import questions_of
from llava.pictures import is_data_uri, read_picture
from llava.pruning import PruningSettings, Views
from llava.utils import InputError


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


@torch.inference_mode()
def encode_pixels(
    model, pixels: list[torch.Tensor], sizes: list[tuple[int, int]], pruning: PruningSettings
) -> list[torch.Tensor]:
    """The visual tokens (length, D) of each image: all at once, or one by one where memory does not allow that.

    Args:
        model: a LLaVA model.
        pixels: (3, H, W) or (crops, 3, H, W) of each image.
        sizes: original (width, height) of each.
        pruning: the settings of the call, with a method that does not choose by the question.
    """

    def embed(some: slice) -> list[torch.Tensor]:
        alike = len({image.shape for image in pixels[some]}) == 1
        return model.embed_images(torch.stack(pixels[some]) if alike else pixels[some], sizes[some], pruning)

    return _at_once_or_one_by_one(embed, len(pixels))


def _at_once_or_one_by_one(encode: Callable[[slice], list], number: int) -> list:
    """What `encode` makes of so many images: of all of them, or of each where memory does not allow that."""
    if number > 1:
        try:
            return encode(slice(None))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
    with refuse_too_large("one image"):
        return [encode(slice(i, i + 1))[0] for i in range(number)]


@dataclass(frozen=True)
class SeenImage:
    """An image that the tower has seen, to choose its tokens by a question or at several settings.

    Attributes:
        views: of its crops.
        size: original (width, height).
        has_crops: whether it was cut into crops, even if into one.
    """

    views: Views
    size: tuple[int, int]
    has_crops: bool

    @torch.inference_mode()
    def tokens(self, model, pruning: PruningSettings, question: str) -> torch.Tensor:
        """(length, D): its visual tokens for a question."""
        with refuse_too_large("one image"):
            return model.embed_seen(self.views, self.size, self.has_crops, pruning, question)


@torch.inference_mode()
def see_pixels(
    model, pixels: list[torch.Tensor], sizes: list[tuple[int, int]], pruning: PruningSettings
) -> list[SeenImage]:
    """As `encode_pixels`, up to where a question is needed."""
    views = _at_once_or_one_by_one(lambda some: model.see_images(pixels[some], pruning), len(pixels))
    return [SeenImage(seen, size, image.ndim == 4) for seen, size, image in zip(views, sizes, pixels)]


def questions_about(request: Request, tokenizer) -> list[str]:
    """What a request asks about each of its images."""
    if request.question is not None:
        return [request.question] * len(request.images)
    return questions_of(tokenizer_image_token(request.prompt, tokenizer, return_tensors="pt"), tokenizer)


def encode_images(
    loaded: tuple, images: Iterable, pruning: PruningSettings, name: str, questions: list[str] | None = None
) -> list[torch.Tensor]:
    """The visual tokens (length, D) of the images of one request, which messages call `name`.

    They are encoded together, but for a `SeenPicture`, which is encoded already. `questions` is what is asked about
    each image, for methods that choose by it.
    """
    images = list(images)
    questions = [""] * len(images) if questions is None else questions
    new = [i for i, image in enumerate(images) if not isinstance(image, SeenPicture)]
    encoded = _encode_new(loaded, [images[i] for i in new], pruning, name, [questions[i] for i in new])
    of_new = dict(zip(new, encoded, strict=True))
    return [
        of_new[i] if i in of_new else image.visual_tokens(pruning, asked)
        for i, (image, asked) in enumerate(zip(images, questions, strict=True))
    ]


def _encode_new(
    loaded: tuple, images: list, pruning: PruningSettings, name: str, questions: list[str]
) -> list[torch.Tensor]:
    """`encode_images` of those that the tower has not seen yet."""
    _, model, image_processor, _ = loaded
    pixels, sizes = [], []
    for image in images:  # one at a time: a small file can be a huge picture
        decoded = open_image(image, name)
        pixels.append(to_pixels(decoded, name, image_processor, model.config))
        sizes.append(decoded.size)
    if not pruning.question_views:
        return encode_pixels(model, pixels, sizes, pruning)
    seen = see_pixels(model, pixels, sizes, pruning)
    return [image.tokens(model, pruning, asked) for image, asked in zip(seen, questions, strict=True)]


class SeenPicture:
    """A picture that a model's vision tower has seen: encoded once, its visual tokens chosen for any settings.

    Attributes:
        size: original (width, height).
        pixels: (K, 3, height, width) float32 of its crops, the whole picture first.
        views: what the tower saw of them.
    """

    @torch.inference_mode()
    def __init__(self, loaded: tuple, image, name: str = "the message") -> None:
        """Encode `image`, as `Session.ask` takes it. Raises InputError, naming it, if it cannot be read or encoded."""
        _, self._model, image_processor, _ = loaded
        opened = open_image(image, name)
        pixels = to_pixels(opened, name, image_processor, self._model.config)
        self._has_crops, self.size = pixels.ndim == 4, opened.size
        self.pixels = pixels if self._has_crops else pixels.unsqueeze(0)
        with refuse_too_large("one image"):
            self.views = self._model.see(self.pixels)

    @torch.inference_mode()
    def visual_tokens(self, pruning: PruningSettings, question: str = "") -> torch.Tensor:
        """Its visual tokens (length, D), as the language model takes them.

        `question` is what is asked about it, for methods that choose by it. Raises InputError if the method cannot work
        on the tower.
        """
        with refuse_too_large("one image"):
            return self._model.embed_seen(self.views, self.size, self._has_crops, pruning, question)


class VisualTokenStream:
    """The visual tokens of one request after another; an image is encoded once while requests go on about it.

    Images are decoded by `num_workers` threads ahead of the model. Every request must have its pruning settings.
    """

    def __init__(self, loaded: tuple, requests: list[Request], num_workers: int) -> None:
        self._tokenizer, self.model, image_processor, _ = loaded
        new = ((image, request.name, request.as_displayed) for _, image, request in _new_images(requests, {}))
        pixels = _Pixels(image_processor, self.model.config)
        self._decoded = map_ahead(pixels, new, num_workers)
        self._encoded: dict = {}  # of the last request that had images: visual tokens, or seen images

    def of(self, batch: list[Request]) -> list[list[torch.Tensor]]:
        """The visual tokens of the images of the next requests, for the same image and choice the same tensor.

        The requests of `batch` have the same settings. Raises InputError if an image cannot be read or encoded.
        """
        keys, pixels, sizes = [], [], []
        for key, _, _ in _new_images(batch, self._encoded):
            decoded = next(self._decoded)
            if isinstance(decoded, InputError):
                raise decoded
            keys.append(key)
            pixels.append(decoded[0])
            sizes.append(decoded[1])
        known, pruning = dict(self._encoded), batch[0].pruning
        if pixels:
            encode = see_pixels if pruning.question_views else encode_pixels
            known |= zip(keys, encode(self.model, pixels, sizes, pruning))
        for request in batch:
            self._encoded = {key: known[key] for key in _keys(request)} or self._encoded
        if pruning.question_views:
            return self._choose(batch, known)
        return [[known[key] for key in _keys(request)] for request in batch]

    def _choose(self, batch: list[Request], seen: dict) -> list[list[torch.Tensor]]:
        """The visual tokens of each request's images, which were `seen`, for what it asks."""
        asked = [list(zip(_keys(request), questions_about(request, self._tokenizer))) for request in batch]
        chosen = {
            (key, question): seen[key].tokens(self.model, batch[0].pruning, question)
            for key, question in dict.fromkeys(pair for pairs in asked for pair in pairs)
        }
        return [[chosen[pair] for pair in pairs] for pairs in asked]


def _keys(request: Request) -> list[tuple]:
    """What tells the images of a request apart from those of others: two PIL images count as two images."""
    same = request.pruning, request.as_displayed
    return [(id(image) if isinstance(image, Image.Image) else image, *same) for image in request.images]


def _new_images(requests: list[Request], known: Iterable[tuple]) -> Iterator[tuple]:
    """(key, image, request) of each image that the request before it with images, at first `known`, has not."""
    for request in requests:
        images = dict(zip(_keys(request), request.images))
        yield from ((key, image, request) for key, image in images.items() if key not in known)
        known = images or known


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


class SeenImageStream:
    """As `VisualTokenStream`, for requests with differing settings: an image is encoded once for all of them.

    What the tower saw of it is kept from the first request about it to the last.
    """

    def __init__(self, loaded: tuple, requests: list[Request], num_workers: int) -> None:
        self._tokenizer, self.model, image_processor, _ = loaded
        self._left: Counter = Counter()  # how often an image is still to come
        new: dict[tuple, tuple] = {}
        for request in requests:
            keys = _keys(replace(request, pruning=None))
            self._left.update(keys)
            for key, image in zip(keys, request.images):
                new.setdefault(key, (image, request.name, request.as_displayed))
        self._decoded = map_ahead(_Pixels(image_processor, self.model.config), new.values(), num_workers)
        self._seen: dict[tuple, SeenImage] = {}

    def of(self, batch: list[Request]) -> list[list[torch.Tensor]]:
        """See `VisualTokenStream.of`."""
        keys, pruning = [_keys(replace(request, pruning=None)) for request in batch], batch[0].pruning
        self._see(dict.fromkeys(key for images in keys for key in images), pruning)
        asked = [questions_about(request, self._tokenizer) if pruning.question_views else None for request in batch]
        pairs = [list(zip(images, asked or [""] * len(images))) for images, asked in zip(keys, asked)]
        tokens = {
            (key, question): self._seen[key].tokens(self.model, pruning, question)
            for key, question in dict.fromkeys(pair for of_request in pairs for pair in of_request)
        }
        for key in (key for images in keys for key in images):
            self._left[key] -= 1
            if not self._left[key]:
                del self._seen[key]
        return [[tokens[pair] for pair in of_request] for of_request in pairs]

    def _see(self, keys: Iterable[tuple], pruning: PruningSettings) -> None:
        """Encode those of the images that were not seen yet."""
        keys = [key for key in keys if key not in self._seen]
        decoded = [next(self._decoded) for _ in keys]
        for found in decoded:
            if isinstance(found, InputError):
                raise found
        if keys:
            self._seen |= zip(keys, see_pixels(self.model, *map(list, zip(*decoded)), pruning))
