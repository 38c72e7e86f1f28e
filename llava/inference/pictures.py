"""From a request's images to visual tokens: decoded ahead of the model, and encoded once for requests on one image."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llava.inference.memory import is_out_of_memory, refuse_too_large
from llava.inference.request import Request
from llava.mm_utils import process_images
from llava.pictures import is_data_uri, read_picture
from llava.pruning import PruningSettings
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
        pruning: the settings of the call.
    """
    alike = len({image.shape for image in pixels}) == 1
    if len(pixels) > 1:
        try:
            return model.embed_images(torch.stack(pixels) if alike else pixels, sizes, pruning)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
    with refuse_too_large("one image"):
        return [model.embed_images(image.unsqueeze(0), [size], pruning)[0] for image, size in zip(pixels, sizes)]


def encode_images(loaded: tuple, images: Iterable, pruning: PruningSettings, name: str) -> list[torch.Tensor]:
    """The visual tokens (length, D) of the images of one request, which messages call `name`."""
    _, model, image_processor, _ = loaded
    decoded = [open_image(image, name) for image in images]
    pixels = [to_pixels(image, name, image_processor, model.config) for image in decoded]
    return encode_pixels(model, pixels, [image.size for image in decoded], pruning)


class VisualTokenStream:
    """The visual tokens of one request after another; an image is encoded once while requests go on about it.

    Images are decoded by `num_workers` threads ahead of the model. Every request must have its pruning settings.
    """

    def __init__(self, loaded: tuple, requests: list[Request], num_workers: int) -> None:
        _, self.model, image_processor, _ = loaded
        new = ((image, request.name, request.as_displayed) for _, image, request in _new_images(requests, {}))
        pixels = _Pixels(image_processor, self.model.config)
        self._decoded = map_ahead(pixels, new, num_workers)
        self._tokens: dict = {}  # of the last request that had images

    def of(self, batch: list[Request]) -> list[list[torch.Tensor]]:
        """The visual tokens of the images of the next requests, for the same image the same tensor.

        The requests of `batch` have the same settings. Raises InputError if an image cannot be read or encoded.
        """
        keys, pixels, sizes = [], [], []
        for key, _, _ in _new_images(batch, self._tokens):
            decoded = next(self._decoded)
            if isinstance(decoded, InputError):
                raise decoded
            keys.append(key)
            pixels.append(decoded[0])
            sizes.append(decoded[1])
        known = dict(self._tokens)
        if pixels:
            known |= zip(keys, encode_pixels(self.model, pixels, sizes, batch[0].pruning))
        for request in batch:
            self._tokens = {key: known[key] for key in _keys(request)} or self._tokens
        return [[known[key] for key in _keys(request)] for request in batch]


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
