"""Question files answered at one or many settings: ranks share the questions, answers are written as they are made."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llava.errors import InputError
from llava.eval.benchmarks.questions import Question, by_image, get_chunk
from llava.eval.benchmarks.scoring import empty_answers
from llava.eval.run.answering import answer_each, make_requests
from llava.eval.run.answers import AnswerStore, answer_line
from llava.eval.run.checks import check_headers, check_lengths, check_questions, decoding_images, describe_faults
from llava.eval.run.ranks import COMING, Progress, Ranks, share
from llava.eval.run.record import describe
from llava.eval.run.source import ModelSource, OnDisk, SettingsAt
from llava.files import write_json
from llava.inference.options import AskingOptions, asking_options, model_options
from llava.pruning.method import method_digest
from llava.pruning.settings import Settings

if TYPE_CHECKING:
    from llava.inference.budgets import Pair
    from llava.inference.request import Completion
    from llava.model.builder import LoadedModel
    from llava.model.template import Template

logger = logging.getLogger(__name__)
MOST_FAILED = 20  # questions that fail on the way before a process gives up


@dataclass
class Job:
    """The answers at one of the settings.

    Attributes:
        pruning: the settings.
        store: the answers.
        missing: the numbers of questions without an answer, at the start.
        error: why the answers cannot be completed; None as long as they can.
        seconds: what answering took this process.
        shown: how many prompts this process answered with so many visual tokens of so many pictures.
    """

    pruning: Settings
    store: AnswerStore
    missing: set[int] = field(default_factory=set)
    error: str | None = None
    seconds: float = 0.0
    shown: Counter[tuple[int, int]] = field(default_factory=Counter)

    def resume(self, settings_at: SettingsAt, overwrite: bool) -> tuple[list[int], str | None]:
        """The questions that have no answer yet, or why a run cannot go on from what is there."""
        try:
            return self.store.resume(settings_at(self.pruning, self.store.known_settings()), overwrite), None
        except InputError as error:
            return [], str(error)

    def method_digest(self) -> str | None:
        """`method_digest` of the method, as the settings of the answers say, or as it is now."""
        return self.store.known_settings().get("pruning_file") or method_digest(self.pruning.pruning_method)

    def finish(self, loaded: LoadedModel | None, count: int) -> None:
        """Make the answers of all processes one file, and write what the run did if this process has a model."""
        try:
            if not self.store.file.exists():
                self.store.finish(count)
        except InputError as error:
            self.error = str(error)
            return
        if not self.missing:
            return
        if loaded is not None:
            about = describe(self.pruning, loaded, self.shown, len(self.missing), self.seconds)
            write_json(self.store.file.with_suffix(".run.json"), about, sort_keys=False)
        if warning := empty_answers(self.store.file):
            logger.warning(warning)


class Jobs:
    """Questions that the processes of a run answer together, at each of some settings.

    The answers come to stand in the answer file of the settings, in the order of the questions; see `answers`. Only
    what has no answer yet is asked, each image encoded once for all settings. Beside the answers, `NAME.run.json` says
    how many visual tokens were kept of each crop, and how long answering took.
    """

    def __init__(
        self,
        source: ModelSource,
        asking: AskingOptions,
        questions: list[Question],
        files: dict[Settings, Path],
        ranks: Ranks,
    ) -> None:
        self.source, self.asking, self.questions, self.ranks = source, asking, questions, ranks
        self.jobs = [Job(pruning, AnswerStore(file, questions)) for pruning, file in files.items()]
        self._mine: list[int] = []  # the numbers of the questions that this process answers, at some of the settings
        self._ready: tuple[LoadedModel, Template] | None = None  # the model and the prompt template, where it has any

    def run(self, overwrite: bool = False) -> list[str | None]:
        """Answer the questions. Answers of other settings are dropped with `overwrite` only, when the model is ready.

        Returns, in the first process, why an answer file is not complete, or None, for each of the settings. Raises
        InputError for impossible questions, before the first is answered, and for a model that cannot be loaded.
        """
        fault = None
        try:
            if wanted := self._resume(overwrite):
                self._mine = share(self.questions, wanted, self.ranks.rank, self.ranks.count)
                self._prepare()
                self._answer()
            for job in self._open if self.ranks.rank == 0 else ():
                job.finish(self._ready and self._ready[0], self.ranks.count)
        except (InputError, SystemExit) as error:
            fault = str(error)
            raise
        finally:
            for job in self.jobs:
                if self.ranks.rank == 0 and (fault or job.error):
                    job.store.abandon()
                job.store.close()
        return [job.error for job in self.jobs]

    @property
    def _open(self) -> list[Job]:
        return [job for job in self.jobs if job.error is None]

    @property
    def _asked(self) -> list[Job]:
        """The jobs that have something to ask; of others nothing but the answer file may be left."""
        return [job for job in self._open if job.missing]

    def _resume(self, overwrite: bool) -> list[int]:
        """Find what is missing of each of the jobs; returns the numbers of what is missing of any, image by image."""

        def resume() -> list[tuple[list[int], str | None]]:
            check_questions(self.questions)
            is_new = any(not (job.store.file.exists() or job.store.parts.exists()) for job in self.jobs)
            if is_new:  # before anything is written
                check_headers(self.questions)
            settings_at = self.source.decisive(self.asking, self.questions)
            found = [job.resume(settings_at, overwrite) for job in self.jobs]
            if not is_new:
                check_headers(self.questions[i] for i in sorted({i for missing, _ in found for i in missing}))
            return found

        for job, (missing, job.error) in zip(self.jobs, self.ranks.from_first(resume), strict=True):
            job.missing = set(missing)
        total = len(self.questions)
        for job in self._open if self.ranks.rank == 0 else ():
            if len(job.missing) < total:
                answered = total - len(job.missing)
                logger.warning("%s: %d of %d questions are answered already", job.store.file, answered, total)
        for job in self._asked if self.ranks.rank > 0 else ():
            self._join(job)
        latest = time.monotonic() + COMING
        self.ranks.to_first("here", lambda rank: time.monotonic() > latest)
        return by_image(self.questions, sorted({i for job in self._asked for i in job.missing}))

    def _join(self, job: Job) -> None:
        try:
            job.store.join(self.ranks.rank)
        except InputError as error:  # of this process alone: the launcher ends the others
            sys.exit(f"error: {error}")

    def _gather(self, work: Callable[[], None]) -> str | None:
        """Do this process's part of the work; in the first process, the jobs then have the errors of all processes.

        Returns the InputErrors that the work raised, in the first process those of all processes, or None.
        """
        fault = None
        try:
            work()
        except InputError as error:
            fault = str(error)

        def has_ended(rank: int) -> bool:  # which gives back all of its locks together
            return all(job.store.has_ended(rank) for job in self.jobs)

        reported = self.ranks.to_first([fault, *(job.error for job in self.jobs)], has_ended)
        fault, *errors = ("; ".join(dict.fromkeys(filter(None, said))) or None for said in zip(*reported, strict=True))
        self._set_errors(errors)
        return fault

    def _set_errors(self, errors: list[str | None]) -> None:
        for job, error in zip(self.jobs, errors, strict=True):
            job.error = error

    def _prepare(self) -> None:
        """Load the model in all processes that have something to ask; drop what is overwritten when all have.

        Raises InputError if the model cannot be loaded, or an image cannot be decoded; a question that is too long at
        the settings of a job is an error of that job.
        """
        fault = self._gather(self._load)

        def begin() -> list[str | None]:
            if fault is not None:
                raise InputError(fault)
            for job in self._asked:
                job.store.begin()
            return [job.error for job in self.jobs]

        self._set_errors(self.ranks.from_first(begin))

    def _load(self) -> None:
        if not self._mine:
            return
        source = self.source
        with decoding_images([self.questions[i] for i in self._mine]) as decoded:
            loaded = source.load(self.ranks.device)
            template = source.find_template(self.asking.conv_mode)
            asked = make_requests([self.questions[i] for i in self._mine], template, loaded.model.config)
            requests = dict(zip(self._mine, asked, strict=True))
            for job in self._asked:
                own = [i for i in self._mine if i in job.missing]
                try:
                    check_lengths(loaded, [self.questions[i] for i in own], [requests[i] for i in own], job.pruning)
                except InputError as error:
                    job.error = str(error)
            decoded()
        self._ready = loaded, template

    def _answer(self) -> None:
        """Answer this process's questions; the first one waits for the others."""
        if not self._asked:  # what could not be prepared
            return
        total = sum(len(job.missing) for job in self._asked)
        with Progress([job.store for job in self._asked], total, hidden=self.ranks.rank > 0):
            fault = self._gather(self._answer_mine)
        if fault is not None:
            raise InputError(fault)

    def _answer_mine(self) -> None:
        """Write each answer as it comes. What cannot be answered is the jobs' error."""
        if self._ready is None:
            return
        from llava.inference.budgets import pairs_in_order

        (loaded, template), asking = self._ready, self.asking
        jobs = {job.pruning: job for job in self._asked}
        pairs = pairs_in_order(self._mine, list(jobs), asking.batch_size)
        pairs = [(number, pruning) for number, pruning in pairs if number in jobs[pruning].missing]
        cores, failed = (os.cpu_count() or 1) // self.ranks.count, defaultdict(list)
        workers = asking.num_workers if asking.num_workers is not None else min(4, cores // 2)

        def note(pair: Pair, completion: Completion) -> None:
            if pictures := len(completion.num_visual_tokens):
                jobs[pair[1]].shown[sum(completion.num_visual_tokens), pictures] += 1

        options = (asking.generation, asking.batch_size, workers, note)
        answers = answer_each(loaded, self.questions, pairs, template, *options)
        digests = {key: job.method_digest() for key, job in jobs.items()}
        with ExitStack() as stack:
            parts = {key: stack.enter_context(job.store.appending(self.ranks.rank)) for key, job in jobs.items()}
            before = time.monotonic()
            for (number, pruning), answer in answers:
                question, job = self.questions[number], jobs[pruning]
                job.seconds, before = job.seconds + time.monotonic() - before, time.monotonic()
                if method_digest(pruning.pruning_method) != digests[pruning]:
                    raise InputError(f"{pruning.pruning_method} was changed while questions were answered by it")
                if isinstance(answer, InputError):
                    logger.debug("the error comes from here", exc_info=answer)
                    failed[pruning].append((question.question_id, str(answer)))
                    if len(failed[pruning]) == MOST_FAILED:
                        break
                    logger.warning("question %s has no answer: %s", question.question_id, answer)
                else:
                    job.store.add(parts[pruning], answer_line(question, answer, self.source.name))
        for pruning, faults in failed.items():
            jobs[pruning].error = describe_faults(faults)


def answer_from_command_line(args: argparse.Namespace, read: Callable[[], list[Question]]) -> None:
    """The whole of a command with the options of `options.question_parser`, which `read`s its questions."""
    model, asking = model_options(args), asking_options(args)
    questions = get_chunk(read(), args.num_chunks, args.chunk_idx)
    ranks = Ranks()
    try:
        jobs = Jobs(OnDisk(model, as_upstream=True), asking, questions, {model.pruning: args.answers_file}, ranks)
        (error,) = jobs.run(args.overwrite)
        if error is not None:
            raise InputError(error)
    except InputError:
        if ranks.rank == 0:  # which says it for all
            raise
