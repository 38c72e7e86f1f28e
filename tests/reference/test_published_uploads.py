"""LLaVA-1.5-13B's published answers become the published uploads."""

import json
from pathlib import Path

import pytest

from tests.conftest import SHARED, load_script, write_jsonl
from tests.eval.benchmarks.converter_cases import answered, options, read_json, read_sheet
from tests.eval.benchmarks.tables import write_table
from tests.eval.conftest import read_jsonl


@pytest.fixture
def formats() -> Path:
    """The heads of the real files, and of the answers and uploads of LLaVA-1.5-13B."""
    folder = SHARED / "eval-formats"
    if not folder.is_dir():
        pytest.skip("the heads of the real files (../shared/eval-formats) are not here")
    return folder


def test_vizwiz_s_published_upload_is_reproduced(call, formats, tmp_path):
    heads = {"annotation_file": "llava_test.head.jsonl", "result_file": "answers.head.jsonl"}
    upload = tmp_path / "new" / "upload.json"
    module = load_script("convert_vizwiz_for_submission")
    assert call(module, *options(formats / "vizwiz", **heads), "--result-upload-file", upload)[0] == 0
    assert read_json(upload) == read_json(formats / "vizwiz" / "answers_upload.head.json")


def test_mmvet_s_published_results_are_reproduced(call, formats, tmp_path):
    src, results = formats / "mm-vet" / "answers.head.jsonl", tmp_path / "new" / "results.json"
    assert call(load_script("convert_mmvet_for_eval"), "--src", src, "--dst", results)[0] == 0
    assert read_json(results) == read_json(formats / "mm-vet" / "results.head.json")


def test_gqa_s_published_answers_are_converted(call, formats, tmp_path):
    src, predictions = formats / "gqa" / "answers.head.jsonl", tmp_path / "predictions.json"
    assert call(load_script("convert_gqa_for_eval"), "--src", src, "--dst", predictions)[0] == 0
    assert [entry["questionId"] for entry in read_json(predictions)] == [row["question_id"] for row in read_jsonl(src)]
    assert read_json(predictions)[1] == {"questionId": "201640614", "prediction": "woman"}


def test_seed_s_published_upload_is_reproduced_from_its_own_predictions(call, formats, tmp_path):
    """Byte for byte. The answers that it was made of are not to be had."""
    published = formats / "seed_bench" / "answers_upload.head.jsonl"
    rows = read_jsonl(published)
    label = {"question_type_id": 1, "data_type": "image", "answer": "B"}
    questions = [label | {"question_id": row["question_id"]} for row in rows]
    (tmp_path / "labels").write_text(json.dumps({"question_type": {"Scene": 1}, "questions": questions}))
    write_jsonl(tmp_path / "in", answered({int(row["question_id"]): row["prediction"] for row in reversed(rows)}))
    paths = options(tmp_path, annotation_file="labels", result_file="in", result_upload_file="out")
    assert call(load_script("convert_seed_for_submission"), *paths)[0] == 0
    assert (tmp_path / "out").read_text() == published.read_text()


def test_mmbench_s_published_answers_fill_a_workbook(call, formats, tmp_path):
    rows = read_jsonl(formats / "mmbench" / "answers.head.jsonl")
    questions = [
        {"index": row["question_id"], "question": row["prompt"], **dict(zip("ABCD", row["options"]))} for row in rows
    ]
    write_table(tmp_path / "questions", questions)
    paths = options(tmp_path, annotation_file="questions", upload_dir="new", result_dir=formats / "mmbench")
    assert call(load_script("convert_mmbench_for_submission"), *paths, "--experiment", "answers.head")[0] == 0
    sheet = read_sheet(tmp_path / "new" / "answers.head.xlsx")
    assert [(row[0], row[6]) for row in sheet[1:]] == [(row["question_id"], row["text"]) for row in rows]
