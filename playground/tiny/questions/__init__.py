"""Questions about scenes. The description of the scene gives the answers.

A maker is a function of a scene and a random generator that returns a question, or None if the scene does not allow it.
Makers of yes/no questions draw what they ask for such that each answer is right about half of the time.
"""

import random

from playground.tiny.questions.base import Maker, Question
from playground.tiny.questions.chinese import LETTER_CN, SHORT_CN, in_chinese
from playground.tiny.questions.forms import LETTER, SHORT, UNANSWERABLE, Choice, as_choice, describe, options_of
from playground.tiny.questions.knowledge import fact, has_color_of, unanswerable
from playground.tiny.questions.objects import (
    count_all,
    count_kind,
    has_both,
    has_either,
    has_shape,
    has_sign,
    has_thing,
    is_color,
    is_count,
    is_larger,
    is_sum,
    same_color,
    what_background,
    what_color,
    what_shape,
    which_color,
    which_size,
)
from playground.tiny.questions.places import is_related, what_is_beside, where, which_relation, which_side
from playground.tiny.questions.signs import is_output, is_translation, is_word, what_sign_color, what_word
from playground.tiny.scenes import Scene

# Answered by one look at one place. The model learns them first, and the other questions build on them.
LOOKUPS: tuple[Maker, ...] = (what_color, what_shape, where, what_word, what_background, has_shape, has_shape)
# Answered by one of many words.
OPEN: tuple[Maker, ...] = (what_color, what_shape, where, what_background, count_all, count_kind, what_word)
SHORT_ANSWERS: tuple[Maker, ...] = (
    has_shape,
    has_shape,
    has_thing,
    has_sign,
    has_both,
    has_either,
    is_color,
    which_color,
    which_size,
    is_larger,
    same_color,
    which_side,
    is_related,
    which_relation,
    what_is_beside,
    is_count,
    is_word,
    what_sign_color,
    is_sum,
    has_color_of,
    is_translation,
    is_output,
    what_word,
    what_word,
    *OPEN,
)


def ask(makers: tuple[Maker, ...], scene: Scene, rng: random.Random) -> Question | None:
    """A question by a random maker; None if twenty draws give none that the scene allows."""
    for _ in range(20):
        question = rng.choice(makers)(scene, rng)
        if question is not None:
            return question
    return None
