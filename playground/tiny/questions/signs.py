"""Questions about the sign: its word, the word's translation, the output of its code, its colour."""

import random
from dataclasses import replace

from playground.tiny.questions.base import Question, draw_other, yes_no
from playground.tiny.scenes import SIGN_COLORS, WORDS, Scene


def what_word(scene: Scene, rng: random.Random) -> Question | None:
    """Which word is on the sign, or printed by its code?"""
    if scene.sign is None:
        return None
    if scene.sign.is_code:
        text = "What is the output of the code?"
    else:
        text = rng.choice(
            (
                "What word is written in the image?",
                "What does the sign say?",
                f"What is written on the {scene.sign.color} sign?",
            )
        )
    return Question("reading", text, scene.sign.word, tuple(WORDS), semantic="text")


def is_word(scene: Scene, rng: random.Random) -> Question | None:
    """Is this the word on the sign? Half of the answers are yes."""
    if scene.sign is None or scene.sign.is_code:
        return None
    word = scene.sign.word if rng.random() < 0.5 else draw_other(WORDS, scene.sign.word, rng=rng)
    return yes_no("reading", f"Is the word in the image {word}?", word == scene.sign.word)


def what_sign_color(scene: Scene, rng: random.Random) -> Question | None:
    """What colour is the sign?"""
    if scene.sign is None:
        return None
    return Question("color", "What color is the sign?", scene.sign.color, tuple(SIGN_COLORS))


def is_translation(scene: Scene, rng: random.Random) -> Question | None:
    """Is this the Spanish translation of the word on the sign? Half of the answers are yes."""
    asked = is_word(scene, rng)
    if asked is None:
        return None
    spanish = WORDS[asked.text.removesuffix("?").rpartition(" ")[2]]
    text = f"Is it appropriate to translate the word in the image into Spanish {spanish}?"
    return replace(asked, kind="translation", text=text)


def is_output(scene: Scene, rng: random.Random) -> Question | None:
    """Is this what the code on the sign prints? Half of the answers are yes."""
    if scene.sign is None or not scene.sign.is_code:
        return None
    word = scene.sign.word if rng.random() < 0.5 else draw_other(WORDS, scene.sign.word, rng=rng)
    text = f"The image shows a python code. Is the output of the code {word}?"
    return yes_no("code", text, word == scene.sign.word)
