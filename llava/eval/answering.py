"""Question files answered: questions become requests, ranks share them, answers are written as they are made."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.answers import AnswerStore, answer_line
from llava.eval.questions import Question, get_chunk
from llava.inference.request import Request, make_request
from llava.utils import InputError, one_line

if TYPE_CHECKING:
    from llava.eval.ranks import Ranks
    from llava.pruning import PruningSettings

logger = logging.getLogger(__name__)


def make_requests(
    questions: list[Question], conv_mode: str, config, pruning: PruningSettings | None = None
) -> list[Request]:
    """What each question asks of the model of this config. Raises InputError as `check_questions` does."""
    check_questions(questions)
    return [
        make_request(q.asked, _images(q), conv_mode, config, pruning, name=f"question {q.question_id}")
        for q in questions
    ]


def _images(question: Question) -> list:
    return [] if question.image is None else [question.image]


def check_questions(questions: Iterable[Question]) -> None:
    """Raise InputError, naming the first, if a question's text has an `<image>` in it: that stands for a picture."""
    for question in questions:
        if DEFAULT_IMAGE_TOKEN in question.asked:
            raise InputError(f"question {question.question_id} has {DEFAULT_IMAGE_TOKEN} in its text")


def answer_questions(
    loaded: tuple,
    questions: list[Question],
    conv_mode: str,
    options: dict,
    batch_size: int | None = None,
    num_workers: int = 0,
    pruning: PruningSettings | None = None,
) -> Iterator[tuple[Question, str]]:
    """Each of `questions` and its answer, in order, as `inference.Engine` answers them.

    `options` are generation options, `pruning` the settings of the call (the model's own if None).
    Raises InputError as `check_questions` and `Engine.answer` do.
    """
    from llava.inference import Engine

    requests = make_requests(questions, conv_mode, loaded[1].config, pruning)
    completions = Engine(loaded, batch_size, num_workers).answer(requests, **options)
    for question, completion in zip(questions, completions):
        yield question, completion.text


def check_images(questions: Iterable[Question]) -> None:
    """Decode every image once, on all cores, so that a bad one is found before hours of work rather than after.

    Raises InputError naming the first that is missing, truncated or not an image.
    """
    from llava.inference.pictures import open_image

    images = {question.image: question for question in questions if question.image is not None}
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda q: open_image(q.image, f"question {q.question_id}").close(), images.values()):
            pass


def answer_question_file(args: argparse.Namespace, questions: list[Question]) -> None:
    """Answer `questions` as the options of `options.question_parser` say, together with the other processes of the run.

    The answers come to stand in the answer file in the order of the questions; see `answers`. Only what has no answer
    yet is asked, and its images alone are decoded. Raises InputError for impossible options and questions, before a
    model is loaded, and as `answer_questions` and `AnswerStore` do; the answers so far are kept.
    """
    from llava.eval.options import check_question_options, load_model
    from llava.eval.ranks import Progress, Ranks, by_image, share

    check_question_options(args)
    questions = get_chunk(questions, args.num_chunks, args.chunk_idx)
    store = AnswerStore(args.answers_file, questions)
    with Ranks() as ranks:
        missing = ranks.from_first(lambda: _unanswered(args, questions, store))
        if len(missing) < len(questions) and ranks.rank == 0:
            logger.warning("%d of %d questions are answered already", len(questions) - len(missing), len(questions))
        mine = [questions[i] for i in share(questions, by_image(questions, missing), ranks.rank, ranks.count)]
        args.device = ranks.device(args.device)
        loaded = load_model(args) if mine else None
        with Progress(store, len(missing), hidden=ranks.rank > 0 or not missing):
            if mine:
                _answer_share(args, loaded, mine, store, ranks)
            ranks.wait()
        if ranks.rank == 0 and not args.answers_file.exists():
            store.finish(ranks.count)


def _unanswered(args: argparse.Namespace, questions: list[Question], store: AnswerStore) -> list[int]:
    """Which questions have no answer yet, by number. Raises InputError if one of them cannot be asked."""
    from llava.eval.settings import settings_of

    check_questions(questions)
    is_new = args.overwrite or not (store.file.exists() or store.parts.exists())
    if is_new:  # before anything is written, or dropped
        check_images(questions)
    try:
        settings = settings_of(args, questions)
    except OSError as error:  # a file that was there when its questions were answered
        raise InputError(f"cannot read the image {error.filename}: {one_line(error)}") from error
    missing = store.resume(settings, args.overwrite)
    if not is_new:
        check_images(questions[i] for i in missing)
    return missing


def _answer_share(
    args: argparse.Namespace, loaded: tuple, mine: list[Question], store: AnswerStore, ranks: Ranks
) -> None:
    """Answer this process's questions, writing each answer as it comes."""
    from llava.eval.options import generation_options
    from llava.mm_utils import get_model_name_from_path

    cores = (os.cpu_count() or 1) // ranks.count
    workers = args.num_workers if args.num_workers is not None else min(4, cores // 2)
    answers = answer_questions(loaded, mine, args.conv_mode, generation_options(args), args.batch_size, workers)
    model_id = get_model_name_from_path(args.model_path)
    with store.appending(ranks.rank) as file:
        for question, text in answers:
            file.write(answer_line(question, text, model_id))
            file.flush()
