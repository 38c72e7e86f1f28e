"""Questions per second: one at a time, in batches, and as the evaluation asks them, side by side on the same questions.

python -m scripts.benchmarks.answering --model-path CHECKPOINT --question-file Q --image-folder DIR

The three take turns, several rounds of them, and their answers are compared. Loading is not measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from llava.cli import CommandParser, output_file, run_command
from llava.conversation import get_conversation
from llava.errors import InputError
from llava.eval.benchmarks.questions import Question, read_question_file
from llava.files import write_json
from llava.inference.options import add_generation_arguments, add_model_arguments, generation_options, model_options

if TYPE_CHECKING:
    from llava.inference import Request


def choose_questions(questions: list[Question], images: int, per_image: int) -> list[Question]:
    """`per_image` questions on each of the first `images` images, repeated where there are not as many."""
    by_image: dict = {}
    for question in questions:
        by_image.setdefault(question.image, []).append(question)
    chosen = [list(islice(cycle(asked), per_image)) for asked in list(by_image.values())[:images]]
    return [replace(question, question_id=i) for i, question in enumerate(q for asked in chosen for q in asked)]


def add_question_arguments(parser: CommandParser) -> None:
    """Which questions are asked, how often, and where the results go."""
    parser.add_argument("--question-file", required=True, type=Path)
    parser.add_argument("--image-folder", required=True, type=Path)
    parser.add_argument("--conv-mode", default="vicuna_v1", help="prompt template (vicuna_v1)")
    parser.add_argument("--images", type=int, default=20, help="images that are asked about (20)")
    parser.add_argument("--per-image", type=int, default=18, help="questions on each, 18 in POPE (18)")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured (3)")
    parser.add_argument("--output", type=output_file, help="results as JSON")


def arrangements(
    loaded: tuple, conv_mode: str, options: dict, batch_size: int | None
) -> dict[str, Callable[[list[Question]], list[str]]]:
    """How the questions may be asked, by name: functions of questions that return texts."""
    from llava.eval.run.answering import make_requests
    from llava.inference import Engine
    from llava.inference.images import open_image

    def answer(requests: list[Request], size: int | None) -> list[str]:
        return [completion.text for completion in Engine(loaded, size).answer(requests, **options)]

    def requests_of(questions: list[Question]) -> list[Request]:
        return make_requests(questions, conv_mode, loaded[1].config)

    def unshared(questions: list[Question], size: int) -> list[str]:
        texts, requests = [], requests_of(questions)
        for part in (requests[i : i + size] for i in range(0, len(requests), size)):
            # Opened for each request, so that no two have the same image.
            own = [replace(r, images=(open_image(r.images[0], r.name, r.as_displayed),)) for r in part]
            texts += answer(own, size)
        return texts

    return {
        "one at a time": lambda questions: unshared(questions, 1),
        "in batches": lambda questions: unshared(questions, batch_size or 16),
        "images and prefixes shared": lambda questions: answer(requests_of(questions), batch_size),
    }


def measure(ask: dict[str, Callable], questions: list[Question], rounds: int, wait: Callable[[], None]) -> dict:
    """Questions per second of each arrangement (median, least and most of the rounds) and whether all answers agree."""
    speeds: dict[str, list[float]] = {name: [] for name in ask}
    texts = {}
    for arrangement in ask.values():
        arrangement(questions[:4])  # the first call pays for what is set up once
    for _ in range(rounds):
        for name, arrangement in ask.items():
            wait()
            start = time.perf_counter()
            texts[name] = arrangement(questions)
            wait()
            speeds[name].append(len(questions) / (time.perf_counter() - start))
    first = statistics.median(speeds[next(iter(ask))])
    alone = next(iter(texts.values()))
    return {
        name: {
            "questions_per_second": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "times_faster": statistics.median(values) / first,
            "same_answers": sum(a == b for a, b in zip(alone, texts[name], strict=True)),
        }
        for name, values in speeds.items()
    }


def main() -> None:
    parser = CommandParser(description=__doc__)
    add_model_arguments(parser)
    add_question_arguments(parser)
    parser.add_argument("--batch-size", type=int, help="questions at once (16 in batches, shared as memory allows)")
    add_generation_arguments(parser, temperature=0, max_new_tokens=16)
    args = parser.parse_args()
    if min(args.images, args.per_image, args.rounds, args.batch_size or 1) < 1:
        raise InputError("images, per-image, rounds and batch-size must be at least 1")
    get_conversation(args.conv_mode)
    options = generation_options(args)
    import torch

    questions = choose_questions(read_question_file(args.question_file, args.image_folder), args.images, args.per_image)
    loaded = model_options(args).load()
    on_gpu = loaded[1].device.type == "cuda"
    results = measure(
        arrangements(loaded, args.conv_mode, options, args.batch_size),
        questions,
        args.rounds,
        torch.cuda.synchronize if on_gpu else lambda: None,
    )
    print(f"{len(questions)} questions, median of {args.rounds} rounds")
    for name, row in results.items():
        print(
            f"{name:28} {row['questions_per_second']:9.2f} questions/s ({row['least']:.2f} to {row['most']:.2f})"
            f"  x{row['times_faster']:.2f}  same answers: {row['same_answers']}"
        )
    if args.output:
        write_json(
            args.output, {"questions": len(questions), "rounds": args.rounds, "arrangements": results}, sort_keys=False
        )


if __name__ == "__main__":
    run_command(main)
