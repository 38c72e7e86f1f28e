"""The forms of a question: how it is to be answered, multiple choice, a request for a description."""

import random
import re
from dataclasses import dataclass, replace

from playground.tiny.questions.base import Question
from playground.tiny.scenes import SIZE, Scene

# LLaVA-1.5's own sentences.
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question: its options in order, and the letter of the right one."""

    question: Question
    options: tuple[str, ...]
    answer: str

    @property
    def lines(self) -> str:
        """The question and its options, one to a line."""
        return "\n".join([self.question.text, *(f"{x}. {option}" for x, option in zip("ABCD", self.options))])


def as_choice(question: Question, rng: random.Random) -> Choice | None:
    """The question with two to four options; None if its possible answers are not listed."""
    wrong = [option for option in question.options if option != question.answer]
    if not wrong:
        return None
    options = [question.answer, *rng.sample(wrong, min(3, len(wrong)))]
    rng.shuffle(options)
    return Choice(question, tuple(options), "ABCD"[options.index(question.answer)])


def options_of(text: str) -> dict[str, str]:
    """The options in the text of a multiple-choice question, by letter; empty for any other text."""
    return dict(re.findall(r"^([A-D])\. (.*)$", text, re.MULTILINE))


def describe(scene: Scene) -> str:
    """A description of the scene: its objects from top to bottom, then the sign and the background."""
    things = tuple(sorted(scene.things, key=lambda thing: (thing.y // (SIZE // 3), thing.x)))
    return f"The image shows {replace(scene, things=things).caption}"
