"""The task sets in lmms-eval itself: their tasks are there, ask what is said, and give the figures of the table."""

import json
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval is not installed here: see scripts/test_lmms_eval.sh")

from lmms_eval.api.metrics import anls
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import handle_non_serializable

from llava.eval import lmms_eval as command
from llava.eval.benchmarks.items import make_items
from llava.eval.benchmarks.lmms_suites import BY_TASK, SUITES
from tests.conftest import picture
from tests.integrations.lmms_eval.conftest import TASKS

WORDS = [("yes", "Yes"), ("no", "yes"), ("yes", "No"), ("no", "No"), ("yes", "a dog"), ("yes", "yes")]
BOX = [0.1, 0.1, 0.5, 0.5]
BOXES = ["[0.1, 0.1, 0.5, 0.5]", "[0.1, 0.1, 0.3, 0.5]", "[0.1, 0.1, 0.28, 0.5]", "nowhere", "[0.6, 0.6, 0.9, 0.9]"]
CHAIR = [{"answer": ["dog", "car"], "pred": pred} for pred in (["dog", "dog", "cat"], ["car"], [])]
AMBER = [
    {"chair_score": wrong, "chair_num": said, "safe_cover_score": found, "safe_cover_num": 4}
    | {"non_hallu_score": 0, "non_hallu_num": 1, "hallu_cover_score": 0, "hallu_cover_num": 1}
    for wrong, said, found in ((1, 4, 3), (0, 1, 1))
]


def grounded(text: str) -> tuple[dict, str]:
    return {"answer": ["the dog"], "bbox": [20, 20, 80, 80], "image": picture(200, 200), "question_id": 1}, text


# What tasks import that score captions, or ask for them, and may not be here.
ABSENT = ("nltk", "nltk.corpus", "nltk.stem", "spacy", "pycocotools", "pycocotools.coco", "pycocoevalcap")
ABSENT += ("pycocoevalcap.eval", "pycocoevalcap.tokenizer", "pycocoevalcap.tokenizer.ptbtokenizer")
# Documents of each kind of task, as far as scoring reads them, and answers.
ASKED = {
    "_bbox_rec": [({"answer": "the dog", "question_id": 1, "bbox": BOX}, said) for said in BOXES],
    "grounding": [grounded(f'[{{"bbox_2d": {box}}}]') for box in ([20, 20, 100, 100], [20, 20, 60, 100], [0, 0, 9, 9])],
    "ocrbench": [
        ({"answer": ["cat"], "dataset": "x", "question_type": "Regular Text Recognition"}, said)
        for said in ("a cat", "dog", "CAT")
    ],
    "mmstar": [
        ({"answer": "A", "index": i, "category": "math", "l2_category": name}, said)
        for i, (name, said) in enumerate([("geometry", "A"), ("geometry", "B"), ("statistical reasoning", "A")])
    ],
    "pope": [({"answer": truth, "question_id": i}, said) for i, (truth, said) in enumerate(WORDS)],
    "chartqa": [({"type": kind, "answer": "5"}, said) for kind, said in (("human_test", "5.1"), ("augmented", "6"))],
    "realworldqa": [({"answer": truth}, said) for truth, said in (("A", "A"), ("2", "2."), ("B", "C"))],
    "textvqa": [({"answers": ["cat"] * 2 + ["dog"] * 8, "question_id": 1}, said) for said in ("cat", "dog", "bird")],
}


@pytest.fixture(scope="module")
def manager():
    return TaskManager(include_path=str(TASKS))


def config_of(manager, task: str, monkeypatch) -> dict:
    """A task's configuration, without the packages that only its own scoring of captions needs."""
    for name in ABSENT:
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, MagicMock())
    return manager._get_config(task)


def samples_of(config: dict, task: str) -> list[dict]:
    """What lmms-eval notes of documents of a task and answers to them, as its logs have it."""
    if "chair" in task or "amber" in task:
        name, values = ("coco_cap", CHAIR) if "chair" in task else ("amber", AMBER)
        names = [entry["metric"] for entry in config["metric_list"] if entry["metric"].startswith(name)]
        return [dict.fromkeys(names, value) for value in values]
    if any(entry["metric"] == "anls" for entry in config["metric_list"]):
        return [anls(["a dog", "dog"], [said]) for said in ("dog", "dogs", "cat")]
    asked = next(rows for name, rows in ASKED.items() if name in task)
    found = [config["process_results"](doc, [said]) for doc, said in asked]
    return [json.loads(json.dumps(sample, default=handle_non_serializable)) for sample in found]


@pytest.mark.parametrize("task", [task for task in BY_TASK if not task.startswith("scenes_")])
def test_figures_are_those_that_lmms_eval_makes_of_its_samples(manager, task, monkeypatch, tmp_path):
    config = config_of(manager, task, monkeypatch)
    samples = samples_of(config, task)
    metrics = {entry["metric"]: entry for entry in config["metric_list"]}
    for figure in BY_TASK[task].figures:
        values = [sample[figure.metric] for sample in samples]
        make = metrics[figure.metric]["aggregation"]
        if make == "mean":
            total = sum(values) / len(values)
        else:
            more = [SimpleNamespace(output_path=str(tmp_path))] if task == "ocrbench" else []
            total = make(values, *more)
        own = make_items(command._terms([figure.share(value) for value in values], ["" for _ in values])).figure
        assert own == pytest.approx(figure.of_total(total, len(values)))
        assert 0 < own < 100


@pytest.mark.parametrize("short", ["refcoco", "refcoco+", "refcocog", "refcoco_grounding"])
def test_grounding_is_asked_for_the_box(manager, short, monkeypatch):
    suite = next(suite for suite in SUITES if suite.short == short)
    for task in suite.tasks:
        config = manager._get_config(task)
        asked = config["doc_to_text"]({"answer": "the dog" if "_rec" in task else ["the dog"]})
        assert "the dog" in asked and ("bounding box coordinate" in asked or "Report bbox coordinates" in asked)
    family = suite.tasks[0].partition("_bbox_rec")[0]
    if short != "refcoco_grounding":  # the other kinds ask for a description
        other = config_of(manager, f"{family}_bbox_val", monkeypatch)
        assert "Bleu" in other["metric_list"][0]["metric"]


def test_every_task_is_there(manager):
    assert [task for task in BY_TASK if task not in manager.all_tasks] == []
