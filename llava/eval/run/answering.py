"""Question files answered: questions become requests, ranks share them, answers are written as they are made."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llava.cli import AskingOptions, asking_options, model_options
from llava.eval.benchmarks.questions import Question, by_image, get_chunk
from llava.eval.benchmarks.scoring import empty_answers
from llava.eval.run.answers import AnswerStore, answer_line
from llava.eval.run.checks import check_headers, check_lengths, check_questions, decoding_images, describe_faults
from llava.eval.run.ranks import COMING, Progress, Ranks, share
from llava.eval.run.source import ModelSource, OnDisk, SettingsAt
from llava.files import write_json
from llava.inference.request import Request, make_request
from llava.pruning.base import CROP, IMAGE
from llava.utils import InputError

if TYPE_CHECKING:
    from llava.inference.budgets import Pair
    from llava.model.builder import LoadedModel
    from llava.pruning import PruningSettings

logger = logging.getLogger(__name__)
MOST_FAILED = 20  # questions that fail on the way before a process gives up


def make_requests(
    questions: list[Question], conv_mode: str, config, pruning: PruningSettings | None = None
) -> list[Request]:
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


def answer_each(
    loaded: tuple,
    questions: list[Question],
    pairs: list[Pair],
    conv_mode: str,
    options: dict,
    batch_size: int | None = None,
    num_workers: int = 0,
) -> Iterator[tuple[Pair, str | InputError]]:
    """Each of `pairs` of a question's number and settings, in order, and the answer, or why there is none.

    `questions` are those that the pairs number; see `inference.budgets`.
    """
    from llava.inference import Engine
    from llava.inference.budgets import answer_pairs

    requests = make_requests(questions, conv_mode, loaded[1].config)
    start = 0
    while start < len(pairs):
        try:
            for completion in answer_pairs(Engine(loaded, batch_size, num_workers), requests, pairs[start:], **options):
                start += 1
                yield pairs[start - 1], completion.text
        except InputError:  # one of the next batch: asked alone, the others get their answers
            is_found = False
            while not is_found and start < len(pairs):
                try:
                    (completion,) = answer_pairs(Engine(loaded, 1), requests, [pairs[start]], **options)
                    answer = completion.text
                except InputError as error:
                    answer, is_found = error, True
                start += 1
                yield pairs[start - 1], answer


@dataclass
class Job:
    """The answers to a benchmark's questions at one of the settings.

    Attributes:
        pruning: the settings.
        store: the answers.
        missing: the numbers of questions without an answer, at the start.
        error: why the answers cannot be completed; None as long as they can.
        seconds: what answering took this process.
    """

    pruning: PruningSettings
    store: AnswerStore
    missing: set[int] = field(default_factory=set)
    error: str | None = None
    seconds: float = 0.0


def answer_files(
    source: ModelSource,
    asking: AskingOptions,
    questions: list[Question],
    files: dict[PruningSettings, Path],
    ranks: Ranks,
    overwrite: bool = False,
) -> list[str | None]:
    """Answer `questions` at each of some settings, together with the other processes of the run.

    The answers come to stand in the answer file of the settings, in the order of the questions; see `answers`. Only
    what has no answer yet is asked, each image encoded once for all settings. Beside the answers, `NAME.run.json` says
    how many visual tokens were kept of each crop, and how long answering took. Answers of other settings are dropped
    with `overwrite` only, and when the model is ready.

    Returns, in the first process, why an answer file is not complete, or None, for each of `files`. Raises InputError
    for impossible questions, before the first is answered, and for a model that cannot be loaded.
    """
    jobs = [Job(pruning, AnswerStore(file, questions)) for pruning, file in files.items()]
    try:
        wanted = _resume(source, asking, jobs, ranks, overwrite)
        if all(job.error is not None for job in jobs):
            return [job.error for job in jobs]
        mine = share(questions, wanted, ranks.rank, ranks.count)
        ready = _prepare(source, asking, jobs, mine, ranks) if wanted else None
        total = sum(len(job.missing) for job in jobs if job.error is None)
        with Progress([job.store for job in jobs], total, hidden=ranks.rank > 0 or not total):
            fault = _gather(jobs, ranks, lambda: _answer_share(source.name, ready, asking, jobs, mine, ranks))
        if fault is not None:
            raise InputError(fault)
        for job in jobs if ranks.rank == 0 else ():
            if job.error is None:
                _finish(job, ready, ranks.count)
    except (InputError, SystemExit) as error:
        for job in jobs:
            job.error = job.error or str(error)
        raise
    finally:
        for job in jobs:
            if job.error is not None and ranks.rank == 0:
                job.store.abandon()
            job.store.close()
    return [job.error for job in jobs]


def answer_from_command_line(args: argparse.Namespace, read: Callable[[], list[Question]]) -> None:
    """The whole of a command with the options of `cli.question_parser`, which `read`s its questions."""
    model, asking = model_options(args), asking_options(args)
    questions = get_chunk(read(), args.num_chunks, args.chunk_idx)
    ranks = Ranks()
    try:
        files = {model.pruning: args.answers_file}
        (error,) = answer_files(OnDisk(model), asking, questions, files, ranks, args.overwrite)
        if error is not None:
            raise InputError(error)
    except InputError:
        if ranks.rank == 0:  # which says it for all
            raise


def _resume(source: ModelSource, asking: AskingOptions, jobs: list[Job], ranks: Ranks, overwrite: bool) -> list[int]:
    """Find what is missing, for each of the jobs; returns the numbers of what is missing in any, image by image.

    Raises InputError if one of the questions cannot be asked.
    """

    def resume() -> list[tuple[list[int], str | None]]:
        questions = jobs[0].store.questions
        check_questions(questions)
        is_new = any(not (job.store.file.exists() or job.store.parts.exists()) for job in jobs)
        if is_new:  # before anything is written
            check_headers(questions)
        settings_at = source.decisive(asking, questions)
        found = [_missing(job, settings_at, overwrite) for job in jobs]
        if not is_new:
            check_headers(questions[i] for i in sorted({i for missing, _ in found for i in missing}))
        return found

    questions = jobs[0].store.questions
    for job, (missing, job.error) in zip(jobs, ranks.from_first(resume), strict=True):
        job.missing = set(missing)
        if job.error is None and ranks.rank > 0:
            _join(job, ranks.rank)
        elif job.error is None and len(missing) < len(questions):
            answered = len(questions) - len(missing)
            logger.warning("%s: %d of %d questions are answered already", job.store.file, answered, len(questions))
    latest = time.monotonic() + COMING
    ranks.to_first("here", lambda rank: time.monotonic() > latest)
    return by_image(questions, sorted({i for job in jobs if job.error is None for i in job.missing}))


def _missing(job: Job, settings_at: SettingsAt, overwrite: bool) -> tuple[list[int], str | None]:
    """The questions that have no answer at the settings of a job, or why one cannot go on from what is there."""
    try:
        return job.store.resume(settings_at(job.pruning, job.store.known_settings()), overwrite), None
    except InputError as error:
        return [], str(error)


def _join(job: Job, rank: int) -> None:
    try:
        job.store.join(rank)
    except InputError as error:  # of this process alone: the launcher ends the others
        sys.exit(f"error: {error}")


def _gather(jobs: list[Job], ranks: Ranks, work: Callable[[], None]) -> str | None:
    """Do this process's part of the work; in the first process, the jobs then have the errors of all processes.

    Returns the InputErrors that the work raised, in the first process those of all processes, or None.
    """
    fault = None
    try:
        work()
    except InputError as error:
        fault = str(error)
    # All of a process's locks are given back together.
    told = ranks.to_first(
        [fault, *(job.error for job in jobs)], lambda rank: all(job.store.has_ended(rank) for job in jobs)
    )
    fault, *errors = ("; ".join(dict.fromkeys(filter(None, said))) or None for said in zip(*told, strict=True))
    for job, error in zip(jobs, errors, strict=True):
        job.error = error
    return fault


def _prepare(
    source: ModelSource, asking: AskingOptions, jobs: list[Job], mine: list[int], ranks: Ranks
) -> tuple[LoadedModel, str] | None:
    """The model and the prompt template, if this process has anything to ask, when all processes have theirs.

    Raises InputError if the model cannot be loaded, or an image cannot be decoded; a question that is too long at the
    settings of a job is an error of that job.
    """
    ready = None

    def prepare() -> None:
        nonlocal ready
        if mine:
            ready = _load(source, asking, jobs, mine, ranks)

    fault = _gather(jobs, ranks, prepare)

    def begin() -> list[str | None]:
        if fault is not None:
            raise InputError(fault)
        for job in jobs:
            if job.error is None:
                job.store.begin()
        return [job.error for job in jobs]

    for job, error in zip(jobs, ranks.from_first(begin), strict=True):
        job.error = error
    return ready


def _load(
    source: ModelSource, asking: AskingOptions, jobs: list[Job], mine: list[int], ranks: Ranks
) -> tuple[LoadedModel, str]:
    from llava.inference.templates import choose_conv_mode

    questions = jobs[0].store.questions
    with decoding_images([questions[i] for i in mine]) as decoded:
        loaded = source.load(ranks.device)
        conv_mode = choose_conv_mode(source.name, loaded.model.config.model_type, asking.conv_mode, source.model_path)
        for job in jobs:
            own = [questions[i] for i in mine if i in job.missing and job.error is None]
            try:
                requests = make_requests(own, conv_mode, loaded.model.config, job.pruning)
                check_lengths(loaded, own, requests)
            except InputError as error:
                job.error = str(error)
        decoded()
    return loaded, conv_mode


def _answer_share(
    name: str,
    ready: tuple[LoadedModel, str] | None,
    asking: AskingOptions,
    jobs: list[Job],
    mine: list[int],
    ranks: Ranks,
) -> None:
    """Answer this process's questions, writing each answer as it comes. What cannot be answered is the jobs' error."""
    if ready is None:
        return
    from llava.inference.budgets import pairs_in_order

    open_jobs = {job.pruning: job for job in jobs if job.error is None}
    pairs = pairs_in_order(mine, list(open_jobs), asking.batch_size)
    pairs = [(number, pruning) for number, pruning in pairs if number in open_jobs[pruning].missing]
    cores, failed = (os.cpu_count() or 1) // ranks.count, defaultdict(list)
    workers = asking.num_workers if asking.num_workers is not None else min(4, cores // 2)
    loaded, conv_mode = ready
    questions = jobs[0].store.questions
    answers = answer_each(loaded, questions, pairs, conv_mode, asking.generation, asking.batch_size, workers)
    with ExitStack() as stack:
        parts = {pruning: stack.enter_context(job.store.appending(ranks.rank)) for pruning, job in open_jobs.items()}
        before = time.monotonic()
        for (number, pruning), answer in answers:
            question, job = questions[number], open_jobs[pruning]
            job.seconds, before = job.seconds + time.monotonic() - before, time.monotonic()
            if isinstance(answer, InputError):
                failed[pruning].append((question.question_id, str(answer)))
                if len(failed[pruning]) == MOST_FAILED:
                    break
                logger.warning("question %s has no answer: %s", question.question_id, answer)
            else:
                job.store.add(parts[pruning], answer_line(question, answer, name))
    for pruning, faults in failed.items():
        open_jobs[pruning].error = describe_faults(faults)


def _finish(job: Job, ready: tuple[LoadedModel, str] | None, count: int) -> None:
    """Make the answers of all processes one file, and write what the run did."""
    store = job.store
    try:
        if not store.file.exists():
            store.finish(count)
    except InputError as error:
        job.error = str(error)
        return
    if ready is not None:
        write_json(store.file.with_suffix(".run.json"), _describe_run(job, ready[0]))
    if job.missing and (warning := empty_answers(store.file)):
        logger.warning(warning)


def _describe_run(job: Job, loaded: LoadedModel) -> dict:
    """What a run did: how visual tokens were chosen, how many of each crop or image, and what answering took."""
    from llava.pruning import method_label

    pruning, patches = job.pruning, loaded.model.get_vision_tower().num_patches
    is_of_image = pruning.prunes and pruning.budget_per == IMAGE
    kept = min(pruning.visual_token_num, patches) if pruning.prunes else patches
    if is_of_image:  # of as many patches as the image's crops have
        kept = pruning.visual_token_num
    return {
        "pruning_method": method_label(pruning.pruning_method) if pruning.prunes else "none",
        "kept": kept,
        "budget_per": IMAGE if is_of_image else CROP,
        "answered": len(job.missing),
        "seconds": round(job.seconds, 2),
    }
