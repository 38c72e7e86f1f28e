"""Benchmarks that lmms-eval asks and scores: which of its tasks they are, and what a sample gives to their figures.

The names of tasks and metrics are those of lmms-eval 0.7.3. In all figures here more is better: where lmms-eval counts
what is wrong, as CHAIR does, the figure is what is left to 100.

RefCOCO, RefCOCO+ and RefCOCOg have three kinds of tasks there. Those named `bbox_rec` ask for the box that a phrase
describes, as four numbers between 0 and 1, the form that LLaVA was trained with; those named `grounding` ask for boxes
as JSON, as Qwen writes them. `bbox` and `seg` ask for a description of a marked region, and are not used here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark, Headline

Share = tuple[str, float, float]  # the term of a figure, and what a sample adds to the two sums of it


@dataclass(frozen=True)
class Figure:
    """A figure of a suite.

    Attributes:
        headline: how the table names it.
        metric: what samples and results of lmms-eval have it under.
        share: what a sample gives to it, from the metric's value in the sample. Any error is that of a wrong value.
        of_total: from lmms-eval's own total and the number of samples to the figure, in percent.
    """

    headline: Headline
    metric: str
    share: Callable[[Any], Share]
    of_total: Callable[[float, int], float] = lambda total, _: 100 * total


@dataclass(frozen=True)
class Suite:
    """One benchmark.

    Attributes:
        short: what the command calls it.
        tasks: of lmms-eval, each a split of the benchmark.
        figures: what the table shows of each.
        options: of lmms-eval's command, that its tasks need.
    """

    short: str
    tasks: tuple[str, ...]
    figures: tuple[Figure, ...]
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As tables and folders call it: the package may have another benchmark of the short name."""
        return f"lmms_{self.short}"

    @property
    def headlines(self) -> tuple[Headline, ...]:
        return tuple(figure.headline for figure in self.figures)

    def split(self, task: str) -> Benchmark:
        """What answers of a task are filed as."""
        return Benchmark(self.name, "", task, self.headlines)


def _number(value: Any) -> Share:
    if not 0 <= value <= 1:
        raise ValueError("it is not in [0, 1]")
    return "", float(value), 1


def _score(value: dict) -> Share:
    return _number(value["score"])


def _of_category(value: dict) -> Share:
    """MMStar's average is that over categories."""
    return value["l2_category"], *_score(value)[1:]


def _f1(value: dict) -> Share:
    """2 TP / (2 TP + FP + FN), as lmms-eval counts: an answer that is neither yes nor no counts as none of them."""
    truth, said = value["ground_truth"], value["prediction"]
    return "", 2.0 * (truth == said == "yes"), 2 * (truth == said == "yes") + ({truth, said} == {"yes", "no"})


def _hits_box(value: dict) -> Share:
    """Whether the boxes overlap by half of what they cover together."""
    (left, top, right, bottom), (x0, y0, x1, y1) = value["bbox"], value["pred"]
    both = max(0, min(right, x1) - max(left, x0)) * max(0, min(bottom, y1) - max(top, y0))
    either = (right - left) * (bottom - top) + (x1 - x0) * (y1 - y0) - both
    return "", float(either > 0 and both / either >= 0.5), 1


def _named_there(value: dict) -> Share:
    """Of the objects that a description names, those that are there."""
    return "", float(sum(word in value["answer"] for word in value["pred"])), len(value["pred"])


def _nothing_made_up(value: dict) -> Share:
    return "", float(set(value["pred"]) <= set(value["answer"])), 1


def _found(value: dict) -> Share:
    """Of the objects that are there, those that a description names."""
    return "", float(len(set(value["answer"]) & set(value["pred"]))), len(set(value["answer"]))


def _amber(part: str, whole: str, is_left: bool = False) -> Callable[[dict], Share]:
    """A share of AMBER's counts, or what is left of it."""
    return lambda value: ("", float(value[whole] - value[part] if is_left else value[part]), value[whole])


def _left(total: float, _: int) -> float:
    return 100 - total


def _percent(total: float, _: int) -> float:
    return total


def _one(short: str, heading: str, metric: str, share: Callable[[Any], Share], *tasks: str, **more) -> Suite:
    """A suite with one figure, an accuracy."""
    return Suite(short, tasks or (short,), (Figure(Headline(heading), metric, share),), **more)


def _boxes(short: str, heading: str, *splits: str) -> Suite:
    return _one(short, heading, "refcoco_ACC@0.5", _hits_box, *(f"{short}_bbox_rec_{split}" for split in splits))


_OCRBENCH = Figure(
    Headline("OCRBench"), "ocrbench_accuracy", _score, lambda total, samples: 100 * 1000 * total / samples
)  # whose total is that of 1000 questions, however many were asked
_CHAIR = (
    Figure(Headline("100 - CHAIR-i", "without_chair_i"), "coco_cap_chair_i", _named_there, _left),
    Figure(Headline("100 - CHAIR-s", "without_chair_s"), "coco_cap_chair_s", _nothing_made_up, _left),
    Figure(Headline("CHAIR recall", "recall"), "coco_cap_recall", _found, _percent),
)
_AMBER = (
    Figure(
        Headline("100 - AMBER CHAIR", "without_chair"), "amber_chair", _amber("chair_score", "chair_num", True), _left
    ),
    Figure(Headline("AMBER cover", "cover"), "amber_cover", _amber("safe_cover_score", "safe_cover_num"), _percent),
)
SUITES = (
    _boxes("refcoco", "RefCOCO box", "val", "testA", "testB"),
    _boxes("refcoco+", "RefCOCO+ box", "val", "testA", "testB"),
    _boxes("refcocog", "RefCOCOg box", "val", "test"),
    _one(
        "refcoco_grounding",
        "RefCOCO JSON box",
        "refcoco_grounding_ACC@0.5",
        _hits_box,
        *("refcoco_grounding_test", "refcoco_grounding_testA", "refcoco_grounding_testB"),
        *("refcoco_plus_grounding_testA", "refcoco_plus_grounding_testB", "refcocog_grounding_test"),
        options=("--process_with_media",),  # scoring needs the picture's size
    ),
    Suite("ocrbench", ("ocrbench",), (_OCRBENCH,)),
    _one("docvqa", "DocVQA", "anls", _number, "docvqa_val"),
    _one("chartqa", "ChartQA", "relaxed_overall", _number),
    _one("infovqa", "InfoVQA", "anls", _number, "infovqa_val"),
    _one("textvqa", "TextVQA without OCR", "exact_match", _number, "textvqa_val"),
    _one("mmstar", "MMStar", "average", _of_category),
    _one("realworldqa", "RealWorldQA", "exact_match", _number),
    Suite("pope", ("pope",), (Figure(Headline("POPE F1 of all", "f1"), "pope_f1_score", _f1),)),
    Suite("chair", ("coco_cap_chair",), _CHAIR),
    Suite("amber", ("amber_g",), _AMBER),
    Suite(
        "scenes_pope",
        tuple(f"scenes_pope_{category}" for category in ("adversarial", "popular", "random")),
        (Figure(Headline("POPE scenes F1, lmms-eval", "f1"), "pope_f1_score", _f1),),
    ),
    _one("scenes_gqa", "GQA scenes, lmms-eval", "exact_match", _number),
    _one("scenes_textvqa", "TextVQA scenes, lmms-eval", "exact_match", _number),
    _one("scenes_ocr", "OCR scenes, lmms-eval", "exact_match", _number),
    _one("scenes_places", "Place scenes, lmms-eval", "exact_match", _number),
    _one("scenes_count", "Count scenes, lmms-eval", "exact_match", _number),
    _one("scenes_exists", "Existence scenes, lmms-eval", "exact_match", _number),
)
BY_TASK = {task: suite for suite in SUITES for task in suite.tasks}


def find_suite(short: str) -> Suite:
    """The suite of this short name. Raises InputError if there is none."""
    for suite in SUITES:
        if suite.short == short:
            return suite
    known = ", ".join(suite.short for suite in SUITES)
    raise InputError(f"there is no task set {short!r}, only {known}")
