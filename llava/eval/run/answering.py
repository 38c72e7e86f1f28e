"""Questions become requests, and requests answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llava.errors import InputError
from llava.eval.benchmarks.questions import Question
from llava.eval.run.checks import check_questions
from llava.inference.request import Request, make_request

if TYPE_CHECKING:
    from llava.inference.budgets import Pair
    from llava.inference.request import Completion
    from llava.model.template import Template
    from llava.pruning import Settings


def make_requests(
    questions: list[Question], conv_mode: str | Template, config, pruning: Settings | None = None
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
    conv_mode: str | Template,
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
    loaded: tuple,
    questions: list[Question],
    pairs: list[Pair],
    conv_mode: str | Template,
    options: dict,
    batch_size: int | None = None,
    num_workers: int = 0,
    note: Callable[[Pair, Completion], None] = lambda *_: None,
) -> Iterator[tuple[Pair, str | InputError]]:
    """Each of `pairs` of a question's number and settings, in order, and the answer, or why there is none.

    `questions` are those that the pairs number; see `inference.budgets`. `note` is given all of each answer.
    """
    from llava.inference import Engine
    from llava.inference.budgets import answer_pairs

    numbers = list(dict.fromkeys(number for number, _ in pairs))
    asked = make_requests([questions[number] for number in numbers], conv_mode, loaded[1].config)
    requests, start = dict(zip(numbers, asked, strict=True)), 0
    while start < len(pairs):
        try:
            for completion in answer_pairs(Engine(loaded, batch_size, num_workers), requests, pairs[start:], **options):
                start += 1
                note(pairs[start - 1], completion)
                yield pairs[start - 1], completion.text
        except InputError:  # one of the next batch: asked alone, the others get their answers
            is_found = False
            while not is_found and start < len(pairs):
                try:
                    (completion,) = answer_pairs(Engine(loaded, 1), requests, [pairs[start]], **options)
                    note(pairs[start], completion)
                    answer = completion.text
                except InputError as error:
                    answer, is_found = error, True
                start += 1
                yield pairs[start - 1], answer
