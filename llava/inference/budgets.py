"""One list of requests answered at many pruning settings, for which every image is encoded once."""

from collections.abc import Iterator
from dataclasses import replace

from llava.inference.engine import Engine
from llava.inference.memory import MOST
from llava.inference.request import Completion, Request
from llava.pruning import Settings


def answer_at_each(
    engine: Engine, requests: list[Request], settings: list[Settings], **options
) -> Iterator[tuple[int, Settings, Completion]]:
    """The completion of every request at every one of `settings`: (number of the request, settings, completion).

    They come as they are made: some requests at all settings, then the next ones. An image passes through the vision
    tower once, however many settings there are, and every setting chooses of what the tower then said. Requests about
    one image should stand together. In float32 every answer is the one that its request gets alone.

    Args:
        engine: the model, and how many requests it takes at once.
        requests: whose own settings do not count.
        settings: without one that stands there twice.
        options: transformers' generation options.

    Raises InputError as `Engine.answer` does.
    """
    size = engine.batch_size or MOST
    groups = (range(start, min(start + size, len(requests))) for start in range(0, len(requests), size))
    pairs = [(number, setting) for group in groups for setting in settings for number in group]
    asked = [replace(requests[number], pruning=setting) for number, setting in pairs]
    for (number, setting), completion in zip(pairs, engine.answer(asked, **options)):
        yield number, setting, completion
