"""How many visual tokens are enough: how often pruned answers are the unpruned ones, without any labels.

python -m llava.eval.budget --model-path CHECKPOINT --question-file Q --image-folder DIR --sample 200 --agreement 0.99
python -m llava.eval.budget --model-path CHECKPOINT --benchmark pope

A sample of the questions is answered with all visual tokens and at each budget and ratio; every picture is encoded once
for all of them. Answers count as the same if their texts are equal, so that questions should ask for short ones. With a
benchmark's name the answers are scored too. Nothing is kept of a run that is cut off: the same command starts again.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.checkpoints.folders import get_model_name_from_path
from llava.cli import CommandParser, output_folder, run_command
from llava.errors import InputError
from llava.eval.benchmarks.questions import Question, read_question_file
from llava.eval.report.budget_report import markdown, write_files
from llava.eval.report.budget_table import Budgets, make_row
from llava.eval.run.checks import check_headers, check_lengths, check_questions
from llava.inference.options import (
    AskingOptions,
    add_asking_arguments,
    add_crop_arguments,
    add_weights_arguments,
    decoding,
    model_options,
    pruning_grid,
    pruning_settings,
)
from llava.pruning.method import method_digest, method_label
from llava.pruning.settings import CROP, NAMES, Settings, add_settings_arguments, takes_settings

if TYPE_CHECKING:
    from llava.inference.request import Completion, Request
    from llava.model.builder import LoadedModel

SAMPLE, AGREEMENT, RATIOS, MAX_NEW_TOKENS = 200, 0.99, (0.3, 0.5, 0.7), 128
SHARES = (1 / 18, 1 / 9, 1 / 6, 2 / 9, 1 / 3, 1 / 2, 3 / 4)  # of LLaVA-1.5's 576: 32 64 96 128 192 288 432


def default_budgets(patches: int) -> list[int]:
    """The numbers of tokens that are tried for crops of N patches: from an eighteenth to three quarters of N."""
    return sorted({max(1, round(share * patches)) for share in SHARES})


def check_sample(sample: int, agreement: float) -> None:
    """Raise InputError unless there is something to draw and the wanted agreement is a share."""
    if sample < 1:
        raise InputError(f"sample must be at least 1, got {sample}")
    if not 0 < agreement <= 1:
        raise InputError(f"agreement must be in (0, 1], got {agreement}")


def draw_sample(questions: list[Question], number: int, seed: int) -> list[Question]:
    """So many of the questions that have an image, all if there are not as many, those about one image together.

    Raises InputError if no question has one.
    """
    from llava.eval.benchmarks.questions import by_image

    questions = [question for question in questions if question.image is not None]
    if not questions:
        raise InputError("no question has an image: there is nothing to prune")
    drawn = random.Random(seed).sample(range(len(questions)), min(number, len(questions)))
    return [questions[i] for i in by_image(questions, sorted(drawn))]


@takes_settings
def find_budget(
    loaded: LoadedModel,
    questions: list[Question],
    *,
    visual_token_num: Sequence[int] | None = None,
    important_ratio: Sequence[float] = RATIOS,
    sample: int = SAMPLE,
    seed: int = 0,
    agreement: float = AGREEMENT,
    score: Callable[[list[Question], list[list[str]]], list[dict[str, float]]] | None = None,
    conv_mode: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int | None = None,
    num_workers: int = 0,
    show_progress: bool = False,
    **settings: Any,
) -> Budgets:
    """How often greedy answers at several budgets are those with all visual tokens.

    Args:
        loaded: what `load_pretrained_model` returned.
        questions: of which a sample is drawn; those without an image are left out.
        visual_token_num: the budgets T of each crop; `default_budgets` if None.
        important_ratio: asked at each budget, if the method goes by it.
        sample, seed: how many questions are drawn, and the seed of the draw.
        agreement: the share of equal answers that is wanted, in (0, 1].
        score: from the sample and the answers at each budget to figures by name, such as
            `evaluation.sample_scorer`; nothing is scored if None.
        conv_mode: the prompt template; that of the checkpoint's published figures if None.
        max_new_tokens: of an answer.
        batch_size, num_workers: see `Engine`.
        show_progress: a bar on stderr.
        settings: the others of `llava.pruning.Settings` by name, `pruning_method` among them.

    Raises InputError for impossible arguments and as `Engine.answer` does.
    """
    from llava.eval.run.answering import make_requests
    from llava.inference import Engine

    check_sample(sample, agreement)
    patches = loaded[1].get_vision_tower().num_patches
    settings = _settings(patches, visual_token_num, important_ratio, settings)
    available = sum(question.image is not None for question in questions)
    questions = draw_sample(questions, sample, seed)
    template = loaded.find_template(conv_mode) if conv_mode else loaded.template
    requests = make_requests(questions, template, loaded[1].config, settings[0])
    check_lengths(loaded, questions, requests)
    engine = Engine(loaded, batch_size, num_workers)
    method = settings[-1].pruning_method
    before = method_digest(method)
    said = _answer(engine, requests, settings, decoding(0, None, 1, max_new_tokens), show_progress)
    if method_digest(method) != before:
        raise InputError(f"{method} was changed while questions were answered by it")
    texts = {setting: [completion.text for completion in said[setting]] for setting in settings}
    scores = score(questions, list(texts.values())) if score is not None else [{} for _ in settings]
    rows = [
        make_row(loaded, setting, said[setting], said[settings[0]], figures)
        for setting, figures in zip(settings, scores)
    ]
    about = {
        "model": get_model_name_from_path(loaded[1].config.name_or_path),
        "method": method_label(method),
        "patches": patches,
        "questions": len(questions),
        "of": available,
        "pictures": len({question.image for question in questions}),
        "seed": seed,
        "template": template.name,
        "max_new_tokens": max_new_tokens,
    }
    return Budgets(about, agreement, questions, rows[0], rows[1:])


def _settings(
    patches: int, budgets: Sequence[int] | None, ratios: Sequence[float], others: dict[str, Any]
) -> list[Settings]:
    """The unpruned settings, and those of each budget and ratio. Raises InputError for impossible ones."""
    numbers = default_budgets(patches) if budgets is None else list(budgets)
    method = pruning_settings(others).method
    ratios = list(ratios) if method.reads_ratio else [Settings.important_ratio]
    pruned = set(pruning_grid({**others, "visual_token_num": numbers, "important_ratio": ratios}))
    if not pruned or not all(each.prunes for each in pruned):
        raise InputError("there is nothing to compare: give a method that prunes, a budget and a ratio")
    pruned = sorted(pruned, key=lambda each: (each.visual_token_num, each.important_ratio))
    if pruned[-1].visual_token_num > patches and pruned[-1].budget_per == CROP:
        raise InputError(f"visual_token_num {pruned[-1].visual_token_num} is more than the {patches} patches of a crop")
    return [Settings(), *pruned]


def _answer(
    engine, requests: list[Request], settings: list[Settings], generation: dict, show_progress: bool
) -> dict[Settings, list[Completion]]:
    """What is said to the requests at each of the settings."""
    from tqdm import tqdm

    from llava.inference.budgets import answer_at_each

    said: dict[Settings, list] = {setting: [None] * len(requests) for setting in settings}
    total = len(requests) * len(settings)
    answers = answer_at_each(engine, requests, settings, **generation)
    for number, setting, completion in tqdm(
        answers, desc="answering", unit="answer", total=total, disable=not show_progress, mininterval=1
    ):
        said[setting][number] = completion
    return said


def parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", required=True, help="checkpoint folder or hub id")
    add_weights_arguments(parser)
    asked = parser.add_argument_group("questions")
    asked.add_argument("--question-file", type=Path, help="JSON lines of question_id, image, text")
    asked.add_argument("--image-folder", type=Path)
    asked.add_argument("--benchmark", help="instead of these two: its questions, and scores by its labels")
    asked.add_argument("--data-dir", type=Path, help="the benchmarks' data (bundled, or playground/data/eval)")
    asked.add_argument("--sample", type=int, default=SAMPLE, help=f"questions that are drawn ({SAMPLE})")
    asked.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    budgets = parser.add_argument_group("budgets")
    add_settings_arguments(budgets, several=("visual_token_num", "important_ratio"))
    # Without budgets: shares of a crop's patches, of 576 they are 32 64 96 128 192 288 432.
    parser.set_defaults(visual_token_num=None, important_ratio=list(RATIOS))
    budgets.add_argument(
        "--agreement", type=float, default=AGREEMENT, help=f"share of equal answers that is wanted ({AGREEMENT})"
    )
    add_crop_arguments(parser)
    add_asking_arguments(parser)
    parser.add_argument("--max_new_tokens", "--max-new-tokens", type=int, help="of an answer (128, or the benchmark's)")
    files = [f"budget.{ending}" for ending in ("md", "csv", "json", "png")]
    parser.add_argument("--output", type=output_folder(*files), help=f"folder for {', '.join(files)}")
    args = parser.parse_args()
    files = args.question_file, args.image_folder
    if (None in files) if args.benchmark is None else any(files):
        raise InputError("give either --question-file and --image-folder, or --benchmark")
    if args.data_dir and args.benchmark is None:
        raise InputError("--data-dir goes with --benchmark")
    check_sample(args.sample, args.agreement)
    tokens = MAX_NEW_TOKENS if args.max_new_tokens is None else args.max_new_tokens
    AskingOptions(decoding(0, None, 1, tokens), args.conv_mode, args.batch_size, args.num_workers)  # they can be asked
    return args


def read_questions(args: argparse.Namespace) -> tuple[list[Question], dict]:
    """The questions, and the arguments of `find_budget` that a benchmark has its own values for."""
    if args.benchmark is None:
        return read_question_file(args.question_file, args.image_folder), {}
    from llava.eval.benchmarks import find_benchmark
    from llava.eval.evaluation import default_data_dir, sample_scorer

    benchmark, data_dir = find_benchmark(args.benchmark), args.data_dir or default_data_dir(args.model_path)
    benchmark.require_data(data_dir)
    questions = benchmark.read_questions(data_dir)
    own = {"score": sample_scorer(benchmark, data_dir), "max_new_tokens": benchmark.max_new_tokens}
    return questions, own


def main() -> None:
    args = parse()
    questions, own = read_questions(args)
    options = {"conv_mode": args.conv_mode, "max_new_tokens": args.max_new_tokens}
    own |= {name: value for name, value in options.items() if value is not None}
    drawn = draw_sample(questions, args.sample, args.seed)
    if len({question.image for question in drawn}) < 2:
        raise InputError("the questions drawn are about one picture: an interval takes two at least, see --sample")
    check_questions(drawn)
    check_headers(drawn)
    workers = args.num_workers if args.num_workers is not None else min(4, (os.cpu_count() or 1) // 2)
    budgets = find_budget(
        model_options(args, Settings()).load(),
        questions,
        **{name: getattr(args, name) for name in NAMES},
        sample=args.sample,
        seed=args.seed,
        agreement=args.agreement,
        batch_size=args.batch_size,
        num_workers=workers,
        show_progress=True,
        **own,
    )
    if not any(budgets.unpruned.answers):
        raise InputError("every unpruned answer is empty: there is nothing to agree with, see --conv-mode")
    print(markdown(budgets), end="")
    if args.output is not None:
        write_files(budgets, args.output)


if __name__ == "__main__":
    run_command(main)
