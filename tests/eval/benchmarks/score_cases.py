"""One case for each scorer with a file of labels: the labels, answers, and the scores that they have."""

import json

import pytest

from llava.eval.benchmarks import gqa as eval_gqa
from llava.eval.benchmarks import mmbench as eval_mmbench
from llava.eval.benchmarks import seed as eval_seed
from llava.eval.benchmarks import textvqa as eval_textvqa
from llava.eval.benchmarks import vqav2 as eval_vqav2
from tests.eval.benchmarks.tables import write_table

WORD = "Answer the question using a single word or phrase."


def approx(accuracy: float, samples: int) -> dict:
    return {"samples": samples, "accuracy": pytest.approx(accuracy)}


def textvqa(folder):
    """Two questions on one image and one on another: 10, 2 and 0 of ten annotators agree."""
    asked = [("b", "What is it?"), ("a", "What does it say?"), ("a", "what Time is it?")]
    labels = [["no"] * 10, ["Stop"] * 10, ["two"] * 2 + [f"{i}:00" for i in range(8)]]
    data = [
        {"question_id": i, "image_id": image, "question": text, "answers": given}
        for i, ((image, text), given) in enumerate(zip(asked, labels))
    ]
    (folder / "labels.json").write_text(json.dumps({"data": data}))
    ocr = "\nReference OCR token: STOP, 7\n"
    return folder / "labels.json", [
        {"question_id": "a", "prompt": f"What time is it?{ocr}{WORD}", "text": "2."},
        {"question_id": "a", "prompt": f"What does it say?\n{WORD}", "text": "stop"},
        {"question_id": "b", "prompt": f"What is it?{ocr}{WORD}", "text": "yes"},
    ]


def gqa(folder):
    labels = {
        "1": {"answer": "yes", "types": {"structural": "verify", "semantic": "attr", "detailed": "x"}},
        "2": {"answer": "red", "types": {"structural": "query", "semantic": "attr", "detailed": "x"}},
        "3": {"answer": "dog", "types": {"structural": "query", "semantic": "obj", "detailed": "x"}},
    }
    (folder / "labels.json").write_text(json.dumps(labels))
    texts = {"3": "a dog", "1": "Yes.", "2": "Red"}
    return folder / "labels.json", [{"question_id": i, "prompt": "", "text": text} for i, text in texts.items()]


def vqav2(folder):
    def label(question_id, kind, *given):
        answers = [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(given)]
        return {"question_id": question_id, "image_id": 1, "answer_type": kind, "answers": answers}

    labels = [
        label(10, "yes/no", *["yes"] * 10),
        label(11, "number", "2", *["3"] * 9),
        label(12, "other", *["cat"] * 10),
    ]
    (folder / "labels.json").write_text(json.dumps({"annotations": labels}))
    texts = {12: "dog", 11: "two", 10: "Yes"}
    return folder / "labels.json", [{"question_id": i, "prompt": "", "text": text} for i, text in texts.items()]


def seed(folder):
    questions = [
        {"question_id": "1", "question_type_id": 1, "data_type": "image", "answer": "A"},
        {"question_id": "2", "question_type_id": 2, "data_type": "image", "answer": "B"},
        {"question_id": "v3", "question_type_id": 2, "data_type": "video", "answer": "C"},
    ]
    (folder / "labels.json").write_text(
        json.dumps({"question_type": {"Scene": 1, "Action": 2}, "questions": questions})
    )
    texts = {"v3": "C. running", "1": "A", "2": "D"}
    return folder / "labels.json", [{"question_id": i, "prompt": "", "text": text} for i, text in texts.items()]


def mmbench(folder):
    rows = [
        {"index": 1, "question": "?", "A": "x", "B": "y", "answer": "B", "category": "ocr", "image": "AAAA"},
        {"index": 2, "question": "?", "A": "x", "B": "y", "answer": "A", "category": "ocr", "image": "AAAA"},
        {"index": 3, "question": "?", "A": "x", "B": "y", "answer": "A", "category": "emotion", "image": "AAAA"},
    ]
    write_table(folder / "labels.tsv", rows)
    texts = {3: "A", 1: "B", 2: "It is x"}
    return folder / "labels.tsv", [{"question_id": i, "round_id": 0, "text": text} for i, text in texts.items()]


CASES = {
    "textvqa": (textvqa, eval_textvqa, approx(160 / 3, 3)),
    "gqa": (
        gqa,
        eval_gqa,
        approx(200 / 3, 3)
        | {"structural": {"verify": approx(100, 1), "query": approx(50, 2)}}
        | {"semantic": {"attr": approx(100, 2), "obj": approx(0, 1)}},
    ),
    "vqav2": (
        vqav2,
        eval_vqav2,
        # "2" agrees with one of ten: nine of them see it once (1/3), the one sees none: 0.3.
        approx(130 / 3, 3)
        | {"answer_type": {"yes/no": approx(100, 1), "number": approx(30, 1), "other": approx(0, 1)}},
    ),
    "seed": (
        seed,
        eval_seed,
        approx(200 / 3, 3)
        | {"no_option": 0}
        | {"data_type": {"image": approx(50, 2), "video": approx(100, 1)}}
        | {"question_type": {"Scene": approx(100, 1), "Action": approx(50, 2)}},
    ),
    "mmbench": (
        mmbench,
        eval_mmbench,
        approx(200 / 3, 3) | {"no_option": 1} | {"category": {"ocr": approx(50, 2), "emotion": approx(100, 1)}},
    ),
}
