"""What the benchmarks share: writing files, drawing questions, answers of several annotators."""

import json
import random
from pathlib import Path

from playground.tiny import questions as q
from playground.tiny.drawing import draw_scene, jpeg
from playground.tiny.scenes import Scene


def save_image(scene: Scene, path: Path) -> None:
    """Write the picture of a scene, as JPEG or PNG by the ending of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        path.write_bytes(jpeg(scene))
    else:
        draw_scene(scene).save(path, optimize=True)


def save_json(path: Path, value: object) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def save_lines(path: Path, rows: list[dict]) -> None:
    """Write a JSON Lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def short_prompt(text: str) -> str:
    """The prompt of a question with a short answer."""
    return f"{text}\n{q.SHORT}"


def draw_questions(makers: tuple[q.Maker, ...], scene: Scene, rng: random.Random, number: int) -> list[q.Question]:
    """Up to `number` different questions about a scene."""
    found: dict[str, q.Question] = {}
    for _ in range(4 * number):
        question = q.ask(makers, scene, rng)
        if question is not None and len(found) < number:
            found.setdefault(question.text, question)
    return list(found.values())


def annotators(answer: str, rng: random.Random) -> list[str]:
    """The answers of ten annotators, of whom up to three give another answer."""
    answers = [answer] * 10
    for i in rng.sample(range(10), rng.randint(0, 3)):
        answers[i] = rng.choice((answer.capitalize(), f"{answer}.", "unanswerable", "not sure"))
    return answers
