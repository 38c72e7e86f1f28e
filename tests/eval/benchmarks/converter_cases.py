"""One case for each converter: its options, answers, and the upload that they become."""

import json
from pathlib import Path

import openpyxl

from tests.conftest import load_script, write_jsonl
from tests.eval.benchmarks.tables import write_table
from tests.eval.conftest import assert_one_line, read_jsonl


def answered(texts: dict) -> list[dict]:
    """The rows of an answer file."""
    return [{"question_id": i, "prompt": "?", "text": text} for i, text in texts.items()]


def options(folder: Path, **paths: str) -> list:
    """Options that name files of a folder."""
    return [part for name, path in paths.items() for part in (f"--{name.replace('_', '-')}", folder / path)]


def read_sheet(path: Path) -> list[list]:
    return [list(row) for row in openpyxl.load_workbook(path).active.iter_rows(values_only=True)]


def vqav2(folder: Path):
    """Four questions, of which test-dev has three; ids are numbers in one file and strings in the other."""
    write_jsonl(folder / "questions", [{"question_id": i, "image": "x.jpg", "text": "?"} for i in (40, 10, 30, 20)])
    upload = [(40, ""), (10, "2 dogs"), (30, "yes"), (20, "")]
    return (
        options(folder, test_file="questions", result_file="in", result_upload_file="out"),
        answered({"10": "Two dogs.", "20": "the", "30": "Yes"}),
        [{"question_id": i, "answer": text} for i, text in upload],
    )


def vizwiz(folder: Path):
    write_jsonl(folder / "questions", [{"question_id": i, "image": f"{i}.jpg", "text": "?"} for i in (0, 1, 2)])
    texts = ["black", "unanswerable", "half and half"]
    return (
        options(folder, annotation_file="questions", result_file="in", result_upload_file="out"),
        answered({"2": "Half and half", 1: "Unanswerable", 0: "A black."}),
        [{"image": f"{i}.jpg", "answer": text} for i, text in enumerate(texts)],
    )


def gqa(folder: Path):
    predictions = {"201": "no", "7": "a red", "3": "dog"}
    return (
        options(folder, src="in", dst="out"),
        answered({"201": "No.", 7: "A red...", "3": "dog.."}),
        [{"questionId": i, "prediction": text} for i, text in predictions.items()],
    )


def mmvet(folder: Path):
    return (
        options(folder, src="in", dst="out"),
        answered({0: "x is 3.", "1": "Ein Bär\nin Öl", 2: ""}),
        {"v1_0": "x is 3.", "v1_1": "Ein Bär\nin Öl", "v1_2": ""},
    )


def seed(folder: Path):
    label = {"question_type_id": 1, "data_type": "image"}
    questions = [label | {"question_id": i, "answer": letter} for i, letter in (("9", "A"), ("v3", "B"), ("4", "C"))]
    (folder / "questions").write_text(json.dumps({"question_type": {"Scene": 1}, "questions": questions}))
    return (
        options(folder, annotation_file="questions", result_file="in", result_upload_file="out"),
        answered({4: "D", "v3": "B. red", "9": "A"}),
        [{"question_id": i, "prediction": text} for i, text in (("9", "A"), ("v3", "B. red"), ("4", "D"))],
    )


def mmbench(folder: Path):
    rows = [
        {"index": 12, "question": "Which?", "hint": "h", "A": "3", "B": "=x", "C": "nan", "image": "AAAA"},
        {
            "index": 5,
            "question": "说什么？\nZwei",
            "A": "x",
            "B": "y",
            "C": "z",
            "D": "w",
            "answer": "B",
            "split": "dev",
        },
    ]
    write_table(folder / "questions", rows)
    return (
        ["--experiment", "in", *options(folder, annotation_file="questions", result_dir="", upload_dir="")],
        [row | {"round_id": 0} for row in answered({5: "=1+1", "12": "None"})],
        [
            ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"],
            [12, "Which?", "3", "=x", None, None, "None", None, None],
            [5, "说什么？\nZwei", "x", "y", "z", "w", "=1+1", "B", "dev"],
        ],
    )


def read_json(path: Path):
    return json.loads(path.read_text())


# Script, its case, how its upload is read, and what it says of three answers besides the upload's path.
CASES = {
    "vqav2": ("convert_vqav2_for_submission", vqav2, read_json, "3 of 4 questions have an answer in"),
    "vizwiz": ("convert_vizwiz_for_submission", vizwiz, read_json, "3 answers in"),
    "gqa": ("convert_gqa_for_eval", gqa, read_json, "3 answers in"),
    "mmvet": ("convert_mmvet_for_eval", mmvet, read_json, "3 answers in"),
    "seed": ("convert_seed_for_submission", seed, read_jsonl, "3 answers in"),
    "mmbench": ("convert_mmbench_for_submission", mmbench, read_sheet, "2 answers in"),
}
WITH_QUESTIONS = ["vqav2", "vizwiz", "seed", "mmbench"]


class Case:
    """One converter with a folder of input for it."""

    def __init__(self, name: str, folder: Path, call):
        script, make, self.read, self.says = CASES[name]
        self.module = load_script(script)
        self.options, self.rows, self.expected = make(folder)
        self.answers = folder / ("in.jsonl" if name == "mmbench" else "in")
        self.upload = folder / ("in.xlsx" if name == "mmbench" else "out")
        self.questions, self.call = folder / "questions", call
        write_jsonl(self.answers, self.rows)

    def run(self) -> tuple[int, str, str]:
        return self.call(self.module, *self.options)

    def refuses(self, rows: list[dict] | str, named: str) -> None:
        """Answers that end it with one line, and leave what was there before and nothing else."""
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        self.answers.write_text(text)
        before = {path: path.read_bytes() for path in self.upload.parent.iterdir()}
        assert_one_line(self.run(), named)
        assert {path: path.read_bytes() for path in self.upload.parent.iterdir()} == before
