"""One list of requests answered at many pruning settings, for which every image is encoded once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from llava.inference.engine import Engine
from llava.inference.memory import MOST
from llava.inference.request import Completion, Request
from llava.pruning import Settings

Pair = tuple[int, Settings]  # the number of a request, and the settings that it is asked at


def pairs_in_order(numbers: Sequence[int], settings: Sequence[Settings], batch_size: int | None) -> list[Pair]:
    """Each of some numbers of requests at each of the settings: a batch at all settings, then the next one.

    Settings that keep the same tokens follow one another, so that these are chosen once.
    """
    size, alike = batch_size or MOST, {}
    for setting in settings:
        alike.setdefault(setting.choice, []).append(setting)
    ordered = [setting for same in alike.values() for setting in same]
    groups = (numbers[start : start + size] for start in range(0, len(numbers), size))
    return [(number, setting) for group in groups for setting in ordered for number in group]


def answer_pairs(
    engine: Engine, requests: Sequence[Request] | Mapping[int, Request], pairs: list[Pair], **options
) -> Iterator[Completion]:
    """The completion of each of `pairs`, in order, as they are made.

    An image passes through the vision tower once, however many settings there are, and every setting chooses from what
    the tower then gave. Pairs about one image should be close together. In float32 every answer is the one that its
    request gets alone.

    Args:
        engine: the model, and how many requests it takes at once.
        requests: by their numbers; their own settings do not count.
        pairs: without one that is there twice; see `pairs_in_order`.
        options: transformers' generation options.

    Raises InputError as `Engine.answer` does.
    """
    asked = [replace(requests[number], pruning=setting) for number, setting in pairs]
    yield from engine.answer(asked, **options)


def answer_at_each(
    engine: Engine, requests: list[Request], settings: list[Settings], **options
) -> Iterator[tuple[int, Settings, Completion]]:
    """The completion of every request at every one of `settings`: (number of the request, settings, completion).

    Arguments, order and errors are those of `pairs_in_order` and `answer_pairs`.
    """
    pairs = pairs_in_order(range(len(requests)), settings, engine.batch_size)
    for (number, setting), completion in zip(pairs, answer_pairs(engine, requests, pairs, **options)):
        yield number, setting, completion
