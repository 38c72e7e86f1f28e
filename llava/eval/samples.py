"""The labels of some of a benchmark's questions, in the benchmark's own files: its scorer then scores a sample.

A sampler takes (data, questions, folder): the benchmark's folder, the questions of the sample, and an empty folder that
gets the labels. An entry that is not of its file's form goes along, so that the scorer names what is wrong with it.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from llava.eval import eval_mme, eval_textvqa
from llava.eval.files import read_jsonl, write_json
from llava.eval.mmbench import read_mmbench_table
from llava.eval.questions import Question
from llava.files import atomic_writer, read_json_object, read_text

Sampler = Callable[[Path, list[Question], Path], None]


def _ids(questions: list[Question]) -> set[str]:
    return {str(question.question_id) for question in questions}


def sample_json(name: str, keep: Callable[[dict, list[Question]], dict]) -> Sampler:
    """The sampler of labels in one JSON object, of which `keep` leaves those of some questions."""

    def sample(data: Path, questions: list[Question], folder: Path) -> None:
        write_json(folder / name, keep(read_json_object(data / name, "annotation file"), questions))

    return sample


def keep_gqa(labels: dict, questions: list[Question]) -> dict:
    ids = _ids(questions)
    return {key: label for key, label in labels.items() if key in ids}


def keep_seed(labels: dict, questions: list[Question]) -> dict:
    ids, entries = _ids(questions), labels.get("questions")
    if not isinstance(entries, list):
        return labels
    kept = [row for row in entries if not _has(row, "question_id") or str(row["question_id"]) in ids]
    return labels | {"questions": kept}


def keep_textvqa(labels: dict, questions: list[Question]) -> dict:
    """TextVQA's labels; of a question that stands there twice, as many as are asked."""
    left = Counter(
        eval_textvqa.question_key(question.question_id, eval_textvqa.question_of(question.prompt))
        for question in questions
    )
    kept, entries = [], labels.get("data")
    for row in entries if isinstance(entries, list) else ():
        key = None
        if _has(row, "image_id", "question") and isinstance(row["question"], str):
            key = eval_textvqa.question_key(row["image_id"], row["question"])
        if key is None or left[key] > 0:
            kept.append(row)
            left[key] -= 1
    return labels | {"data": kept}


def _has(row: object, *fields: str) -> bool:
    return isinstance(row, dict) and all(field in row for field in fields)


def sample_pope(data: Path, questions: list[Question], folder: Path) -> None:
    """POPE's scorer asks for the labels of the questions in the question file, so that the others may stay."""
    ids = _ids(questions)
    rows = read_jsonl(data / "llava_pope_test.jsonl", "question file", ["question_id"])
    with atomic_writer(folder / "llava_pope_test.jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows if str(row["question_id"]) in ids)
    (folder / "coco").symlink_to((data / "coco").resolve())


def sample_science_qa(data: Path, questions: list[Question], folder: Path) -> None:
    write_json(folder / "pid_splits.json", {"test": [str(question.question_id) for question in questions]})
    (folder / "problems.json").symlink_to((data / "problems.json").resolve())


def sample_mme(data: Path, questions: list[Question], folder: Path) -> None:
    """MME's lines; a picture with one of its questions in the sample counts by that one."""
    parent = Path("MME_Benchmark_release_version")
    wanted = {
        eval_mme.answer_key({"question_id": question.question_id, "prompt": question.prompt}) for question in questions
    }
    for category in {category for category, _, _ in wanted}:
        source = data / parent / category
        source = source / "questions_answers_YN" if (source / "questions_answers_YN").is_dir() else source
        for file in sorted(source.glob("*.txt")):
            lines = [line for line in read_text(file, "label file").split("\n") if line.strip()]
            kept = [line for line in lines if _mme_key(category, file, line) in wanted]
            if kept:
                with atomic_writer(folder / parent / category / file.name) as out:
                    out.write("\n".join(kept))


def _mme_key(category: str, file: Path, line: str) -> eval_mme.Key:
    return eval_mme.question_key(category, file.name, line.rpartition("\t")[0])


def sample_mmbench(table: str) -> Sampler:
    """The sampler of a split of MMBench, less the pictures."""

    def sample(data: Path, questions: list[Question], folder: Path) -> None:
        ids = _ids(questions)
        rows = [row for row in read_mmbench_table(data / table, []) if str(int(row["index"])) in ids]
        with atomic_writer(folder / table) as file:
            columns = [name for name in rows[0] if name != "image"]
            writer = csv.DictWriter(file, columns, extrasaction="ignore", delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    return sample
