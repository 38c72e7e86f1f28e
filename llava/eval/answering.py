"""Question files answered: questions become requests, ranks share them, answers are written as they are made."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llava.errors import InputError
from llava.eval.answer_rows import empty_answers
from llava.eval.answers import AnswerStore, answer_line
from llava.eval.checks import check_headers, check_lengths, check_questions, decoding, refuse
from llava.eval.checks import check_images as check_images
from llava.eval.files import write_json
from llava.eval.options import AskingOptions, asking_options, model_options
from llava.eval.questions import Question, get_chunk
from llava.inference.request import Request, make_request
from llava.pruning.settings import CROP, IMAGE

if TYPE_CHECKING:
    from llava.eval.ranks import Ranks
    from llava.model.builder import LoadedModel
    from llava.pruning import Settings

logger = logging.getLogger(__name__)
MOST_FAILED = 20  # questions that fail on the way before a process gives up


def make_requests(questions: list[Question], conv_mode: str, config, pruning: Settings | None = None) -> list[Request]:
    """What each question asks of the model of this config. Raises InputError as `check_questions` does."""
    check_questions(questions)
    return [
        make_request(q.asked, _images(q), conv_mode, config, pruning, f"question {q.question_id}", as_displayed=False)
        for q in questions
    ]


def _images(question: Question) -> list:
    return [] if question.image is None else [question.image]


def answer_questions(
    loaded: tuple,
    questions: list[Question],
    conv_mode: str,
    options: dict,
    batch_size: int | None = None,
    num_workers: int = 0,
    pruning: Settings | None = None,
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


def answer_each(
    loaded: tuple, questions: list[Question], conv_mode: str, options: dict, batch_size: int | None = None, *args
) -> Iterator[tuple[Question, str | InputError]]:
    """Each of `questions`, in order, and its answer, or why it has none. Arguments are those of `answer_questions`."""
    start = 0
    while start < len(questions):
        try:
            for answered in answer_questions(loaded, questions[start:], conv_mode, options, batch_size, *args):
                start += 1
                yield answered
        except InputError:  # one of the next batch: asked alone, the others get their answers
            is_found = False
            while not is_found and start < len(questions):
                question = questions[start]
                try:
                    ((_, answer),) = answer_questions(loaded, [question], conv_mode, options, 1, *args)
                except InputError as error:
                    answer, is_found = error, True
                start += 1
                yield question, answer


class ModelSource(Protocol):
    """Where the model that answers comes from: `options.ModelOptions`, or one that is loaded already."""

    name: str
    pruning: Settings

    def load(self) -> LoadedModel:
        """The model. Raises InputError if it cannot be loaded."""

    def on(self, device: Callable[[str], str]) -> ModelSource:
        """The same on the device that `device` makes of the one it has."""

    def settings(self, asking: AskingOptions, questions: list[Question]) -> dict:
        """What decides the answers; see `settings.settings_of`."""


def answer_question_file(
    model: ModelSource, asking: AskingOptions, questions: list[Question], answers_file: Path, overwrite: bool = False
) -> None:
    """Answer `questions` together with the other processes of the run.

    The answers come to stand in the answer file in the order of the questions; see `answers`. Only what has no answer
    yet is asked, and its images alone are decoded. Beside the answers, `NAME.run.json` says how many visual tokens were
    kept of each crop, and how long answering took. Raises InputError for impossible questions before the first is
    answered, and as `ModelSource.load`, `answer_questions` and `AnswerStore` do; the answers so far are kept. Answers
    of other settings are dropped with `overwrite` only, and when the model is ready.
    """
    from llava.eval.ranks import Progress, Ranks, by_image, share

    store = AnswerStore(answers_file, questions)
    with Ranks() as ranks, closing(store):
        missing = ranks.from_first(lambda: _unanswered(model, asking, store, overwrite))
        if len(missing) < len(questions) and ranks.rank == 0:
            logger.warning("%d of %d questions are answered already", len(questions) - len(missing), len(questions))
        mine = [questions[i] for i in share(questions, by_image(questions, missing), ranks.rank, ranks.count)]
        with store.abandoned_if_it_fails():
            ready = ranks.from_each(lambda: _prepare(model.on(ranks.device), asking, mine))
            if missing:
                ranks.from_first(store.begin)
        start = time.monotonic()
        with Progress(store, len(missing), hidden=ranks.rank > 0 or not missing):
            ranks.from_each(lambda: _answer_share(model, ready, asking, mine, store, ranks))
        if ranks.rank > 0:
            return
        if not answers_file.exists():
            store.finish(ranks.count)
        if ready is not None:
            loaded, _ = ready
            write_json(answers_file.with_suffix(".run.json"), _describe_run(model.pruning, loaded, len(missing), start))
        if missing and (warning := empty_answers(answers_file)):
            logger.warning(warning)


def answer_from_command_line(args: argparse.Namespace, read: Callable[[], list[Question]]) -> None:
    """The whole of a command with the options of `options.question_parser`, which `read`s its questions."""
    model, asking = model_options(args), asking_options(args)
    questions = get_chunk(read(), args.num_chunks, args.chunk_idx)
    answer_question_file(model, asking, questions, args.answers_file, args.overwrite)


def _unanswered(model: ModelSource, asking: AskingOptions, store: AnswerStore, overwrite: bool) -> list[int]:
    """Which questions have no answer yet, by number. Raises InputError if one of them cannot be asked."""
    check_questions(store.questions)
    is_new = not (store.file.exists() or store.parts.exists())
    if is_new:  # before anything is written
        check_headers(store.questions)
    missing = store.resume(model.settings(asking, store.questions), overwrite)
    if not is_new:
        check_headers(store.questions[i] for i in missing)
    return missing


def _prepare(model: ModelSource, asking: AskingOptions, mine: list[Question]) -> tuple[LoadedModel, str] | None:
    """The model and the prompt template, if there is anything to ask: `mine` are this process's questions.

    Raises InputError if the model cannot be loaded, or one of the questions cannot be asked.
    """
    from llava.inference.templates import choose_conv_mode

    if not mine:
        return None
    with decoding(mine) as decoded:
        loaded = model.load()
        conv_mode = choose_conv_mode(model.name, loaded.model.config.model_type, asking.conv_mode, model.model_path)
        check_lengths(loaded, mine, make_requests(mine, conv_mode, loaded.model.config, model.pruning))
        decoded()
    return loaded, conv_mode


def _answer_share(
    model: ModelSource,
    ready: tuple[LoadedModel, str] | None,
    asking: AskingOptions,
    mine: list[Question],
    store: AnswerStore,
    ranks: Ranks,
) -> None:
    """Answer this process's questions, writing each answer as it comes.

    Raises InputError that names those that could not be answered, in the end or when there are too many.
    """
    if ready is None:
        return
    loaded, conv_mode = ready
    cores, failed = (os.cpu_count() or 1) // ranks.count, []
    workers = asking.num_workers if asking.num_workers is not None else min(4, cores // 2)
    answers = answer_each(loaded, mine, conv_mode, asking.generation, asking.batch_size, workers, model.pruning)
    with store.appending(ranks.rank) as file:
        for question, answer in answers:
            if isinstance(answer, InputError):
                failed.append((question.question_id, str(answer)))
                if len(failed) == MOST_FAILED:
                    break
                logger.warning("question %s has no answer: %s", question.question_id, answer)
            else:
                store.add(file, answer_line(question, answer, model.name))
    refuse(failed)


def _describe_run(pruning: Settings, loaded: LoadedModel, answered: int, start: float) -> dict:
    """What a run did: how visual tokens were chosen, how many of each crop or image, and what answering took."""
    from llava.pruning import method_label

    patches = loaded.model.get_vision_tower().num_patches
    is_of_image = pruning.prunes and pruning.budget_per == IMAGE
    kept = min(pruning.visual_token_num, patches) if pruning.prunes else patches
    if is_of_image:  # of as many patches as the image's crops have
        kept = pruning.visual_token_num
    return {
        "pruning_method": method_label(pruning.pruning_method) if pruning.prunes else "none",
        "kept": kept,
        "budget_per": IMAGE if is_of_image else CROP,
        "answered": answered,
        "seconds": round(time.monotonic() - start, 2),
    }
