"""The bundled scenes as documents of lmms-eval: questions with their labels, and the pictures that they are about.

The tasks in this folder name these functions. For other data in LLaVA's layout, copy the folder and change DATA here
and `data_files` in the tasks.
"""

import json
from functools import partial
from pathlib import Path

from datasets import Dataset
from PIL import Image

from llava.eval.benchmarks.textvqa import question_key, question_of

DATA = Path(__file__).parents[2] / "playground" / "data" / "scenes"


def picture(document: dict) -> list[Image.Image]:
    """The picture that the question is about, decoded when it is asked for."""
    return [Image.open(document["image"]).convert("RGB")]


def pope(category: str, questions: Dataset) -> Dataset:
    """POPE's questions of one category."""
    rows = (DATA / "pope" / "coco" / f"coco_pope_{category}.json").read_text().splitlines()
    labels = {(row["image"], row["text"]): row["label"] for row in map(json.loads, rows)}

    def label(question: dict) -> dict:
        return {"answer": labels[question["image"], question["text"].split("\n")[0]]}

    chosen = questions.filter(lambda question: question["category"] == category)
    return _with_pictures(chosen.map(label), DATA / "pope" / "val2014")


pope_adversarial = partial(pope, "adversarial")
pope_popular = partial(pope, "popular")
pope_random = partial(pope, "random")


def gqa(questions: Dataset) -> Dataset:
    labels = json.loads((DATA / "gqa" / "data" / "questions" / "testdev_balanced_questions.json").read_text())
    labelled = questions.map(lambda question: {"answer": labels[question["question_id"]]["answer"]})
    return _with_pictures(labelled, DATA / "gqa" / "data" / "images")


def textvqa(questions: Dataset) -> Dataset:
    """TextVQA's questions, whose id is the image's."""
    rows = json.loads((DATA / "textvqa" / "TextVQA_0.5.1_val.json").read_text())["data"]
    answers = {question_key(row["image_id"], row["question"]): row["answers"] for row in rows}

    def label(question: dict) -> dict:
        return {"answers": answers[question_key(question["question_id"], question_of(question["text"]))]}

    return _with_pictures(questions.map(label), DATA / "textvqa" / "train_images")


def standin(questions: Dataset) -> Dataset:
    return _with_pictures(questions, DATA / "standins" / "images")


def _with_pictures(questions: Dataset, folder: Path) -> Dataset:
    return questions.map(lambda question: {"image": str(folder / question["image"])})
