"""Draw the stand-ins of llava.eval.benchmarks.standins: python -m playground.tiny.standins

Their scenes have seeds of their own, so that no picture is one of training or of the bundled benchmarks. They are drawn
when asked for: 600 pictures and four files of questions, 4 MB, in two seconds, unless they are there.
"""

import json
import random
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

from llava.cli import run_command
from llava.eval.benchmarks.standins import FOLDER
from llava.eval.evaluation import BUNDLED_DATA
from playground.tiny import questions as q
from playground.tiny.benchmarks.common import draw_questions, save_image, save_lines, short_prompt
from playground.tiny.benchmarks.yes_no import yes_and_no
from playground.tiny.options import command_parser
from playground.tiny.scenes import EVALUATION_SEED, Scene, make_scene

# Training's seeds are below EVALUATION_SEED, the bundled benchmarks' begin there.
FIRST_SEED = EVALUATION_SEED + 2_000_000
SIGN_SEED = EVALUATION_SEED + 3_000_000
SCENES = 300
PLACES = 1130
PLACE_MAKERS = (q.where, q.which_side, q.is_related, q.which_relation, q.what_is_beside)

Asked = Callable[[Scene, random.Random], list[q.Question]]


def scenes() -> list[Scene]:
    """Scenes of any kind, about which places, numbers and existence are asked."""
    return [make_scene(seed) for seed in range(FIRST_SEED, FIRST_SEED + SCENES)]


def signs() -> list[Scene]:
    """Scenes with a word on a sign."""
    return [make_scene(seed, with_sign=True, is_code=False) for seed in range(SIGN_SEED, SIGN_SEED + SCENES)]


def ask(name: str, pool: list[Scene], asked: Asked, most: int | None = None) -> list[dict]:
    """The lines of a question file, the first `most` of what `asked` gives for each scene."""
    found = ((scene, question) for scene in pool for question in asked(scene, random.Random(f"{name} {scene.seed}")))
    return [
        {"question_id": number, "image": f"{scene.seed}.jpg", "text": short_prompt(question.text)}
        | {"category": question.kind, "label": question.answer}
        for number, (scene, question) in zip(count(1), islice(found, most))
    ]


def questions() -> dict[str, list[dict]]:
    """The lines of each question file, by the name of the benchmark."""
    anywhere = scenes()
    return {
        "scenes_ocr": ask("ocr", signs(), lambda scene, rng: draw_questions((q.what_word,), scene, rng, 2)),
        "scenes_places": ask(
            "places", anywhere, lambda scene, rng: draw_questions(PLACE_MAKERS, scene, rng, 4), PLACES
        ),
        "scenes_count": ask(
            "count",
            anywhere,
            lambda scene, rng: [q.count_all(scene, rng), *yes_and_no(q.is_count, scene, rng)],
        ),
        "scenes_exists": ask(
            "exists",
            anywhere,
            lambda scene, rng: yes_and_no(q.has_shape, scene, rng) + yes_and_no(q.has_thing, scene, rng),
        ),
    }


def write(data: Path) -> None:
    """Write pictures and questions below the folder of the benchmarks' data, unless these questions are there."""
    folder, files = data / FOLDER, questions()
    if all(_read(folder / f"{name}.jsonl") == rows for name, rows in files.items()):
        return
    for scene in (*scenes(), *signs()):
        save_image(scene, folder / "images" / f"{scene.seed}.jpg")
    for name, rows in files.items():  # last: who finds them finds the pictures
        save_lines(folder / f"{name}.jsonl", rows)


def _read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def main() -> None:
    parser = command_parser("standins", __doc__)
    parser.add_argument("--output", type=Path, default=BUNDLED_DATA, help="the benchmarks' data (the bundled ones')")
    output = parser.parse_args().output
    write(output)
    print(f"the stand-ins' questions and pictures are in {output / FOLDER}")


if __name__ == "__main__":
    run_command(main)
