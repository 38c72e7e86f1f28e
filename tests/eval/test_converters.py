"""The uploads made of answers, in the formats that the benchmarks' servers and scorers read, and what is refused."""

import json
import sys
from pathlib import Path

import openpyxl
import pytest

from tests.conftest import SHARED, load_script, write_jsonl
from tests.eval.conftest import assert_one_line
from tests.eval.test_questions import write_table


def answered(texts: dict) -> list[dict]:
    """The rows of an answer file."""
    return [{"question_id": i, "prompt": "?", "text": text} for i, text in texts.items()]


def options(folder: Path, **paths: str) -> list:
    """Options that name files of a folder."""
    return [part for name, path in paths.items() for part in (f"--{name.replace('_', '-')}", folder / path)]


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


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
    predictions = {"201": "no", "7": "a red..", "3": "dog."}
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
    "seed": ("convert_seed_for_submission", seed, read_rows, "3 answers in"),
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


@pytest.fixture
def case(request, tmp_path, call):
    return Case(request.param, tmp_path, call)


every = pytest.mark.parametrize("case", CASES, indirect=True)
with_questions = pytest.mark.parametrize("case", WITH_QUESTIONS, indirect=True)
only_mmbench = pytest.mark.parametrize("case", ["mmbench"], indirect=True)


@every
def test_the_upload_has_the_form_that_is_asked_for(case):
    code, out, err = case.run()
    assert (code, err) == (0, "")
    assert f"{case.says} {case.upload}\n" in out
    assert case.read(case.upload) == case.expected


@every
def test_answers_that_cannot_be_used_are_refused_and_an_older_upload_stays(case):
    case.run()
    case.refuses(
        [*case.rows, case.rows[0]], f"answers 1 question(s) more than once, such as '{case.rows[0]['question_id']}'"
    )
    case.refuses([*case.rows[1:], case.rows[0] | {"text": None}], f"the answer to {case.rows[0]['question_id']!r} is")
    case.refuses([*case.rows[1:], {"text": "yes"}], f"line {len(case.rows)}: no question_id")
    case.refuses('{"question_id": 1, "te', f"{case.answers}, line 1: not JSON")
    case.refuses("", f"the result file {case.answers} is empty")
    case.answers.unlink()
    assert_one_line(case.run(), f"cannot read the result file {case.answers}")


@with_questions
def test_answers_to_nothing_that_was_asked_are_refused(case):
    case.refuses([*case.rows, case.rows[0] | {"question_id": 999}], "answers 1 question(s) that ")
    assert not case.upload.exists()


@pytest.mark.parametrize("case", [name for name in WITH_QUESTIONS if name != "vqav2"], indirect=True)
def test_missing_answers_are_refused_where_all_questions_have_one(case):
    case.refuses(case.rows[1:], f"lacks 1 of the {len(case.rows)} questions")
    assert not case.upload.exists()


@with_questions
def test_questions_that_cannot_be_read_are_named(case):
    for text in ("", "nothing", "[]", "{}", '{"question_type": {}, "questions": []}'):
        case.questions.write_text(text)
        case.refuses(case.rows, str(case.questions))
    case.questions.unlink()
    case.refuses(case.rows, f"{case.questions}: ")


@pytest.mark.parametrize("case", ["vqav2", "vizwiz"], indirect=True)
def test_questions_that_stand_in_their_file_twice_are_refused(case):
    case.questions.write_text(case.questions.read_text() * 2)
    case.refuses(case.rows, f"{case.questions} has {len(read_rows(case.questions)) // 2} id(s) more than once")


@pytest.mark.parametrize(
    ("case", "field", "value", "named"),
    [("vqav2", "question_id", "n7", "the id 'n7' is not a whole number"), ("vizwiz", "image", 7, "not a string")],
    indirect=["case"],
)
def test_questions_that_the_server_would_refuse_are_named(case, field, value, named):
    rows = read_rows(case.questions)
    write_jsonl(case.questions, [*rows[:-1], rows[-1] | {field: value}])
    case.refuses(case.rows, named)


@pytest.mark.parametrize("case", ["gqa", "mmvet", "seed"], indirect=True)
def test_half_a_surrogate_pair_in_an_answer_stands_in_the_upload(case):
    write_jsonl(case.answers, [case.rows[0] | {"text": "a \ud83d"}, *case.rows[1:]])
    assert case.run()[0] == 0
    assert "a \\ud83d" in case.upload.read_text()


def test_vqav2_finds_its_files_below_one_folder(call, tmp_path):
    _, rows, expected = vqav2(tmp_path)
    (tmp_path / "questions").rename(tmp_path / "llava_vqav2_mscoco_test2015.jsonl")
    split, ckpt = "llava_vqav2_mscoco_test-dev2015", "llava-v1.5-7b/n_64/r_0.5"
    (tmp_path / "answers" / split / ckpt).mkdir(parents=True)
    write_jsonl(tmp_path / "answers" / split / ckpt / "merge.jsonl", rows)
    module = load_script("convert_vqav2_for_submission")
    assert call(module, "--dir", tmp_path, "--ckpt", ckpt, "--split", split)[0] == 0
    upload = tmp_path / "answers_upload" / split / "llava-v1.5-7b" / "n_64" / "r_0.5.json"
    assert read_json(upload) == expected
    upload.unlink()
    assert call(module, "--dir", tmp_path, "--ckpt", ckpt)[0] == 0
    assert read_json(upload) == expected
    assert_one_line(call(module, "--dir", tmp_path), "give --ckpt, or both")


@pytest.mark.parametrize("case", ["seed"], indirect=True)
def test_seed_s_accuracy_is_printed(case):
    assert "Samples: 3\nAccuracy: 66.67 %\n" in case.run()[1]


@only_mmbench
def test_what_looks_like_a_formula_is_text_in_the_workbook(case):
    case.run()
    sheet = openpyxl.load_workbook(case.upload).active
    assert [(sheet[cell].value, sheet[cell].data_type) for cell in ("G3", "D2")] == [("=1+1", "s"), ("=x", "s")]
    assert [sheet[cell].data_type for cell in ("A2", "A3", "C2")] == ["n", "n", "s"]


@only_mmbench
@pytest.mark.parametrize(
    ("text", "cell"), [("a\x07b", "a\ufffdb"), ("\ud800", "\ufffd"), ("\uffff\x00", "\ufffd\ufffd")]
)
def test_characters_of_an_answer_that_a_workbook_cannot_hold_are_marked(case, text, cell):
    case.answers.write_text("".join(json.dumps(row | {"text": text}) + "\n" for row in case.rows))
    assert case.run()[0] == 0
    assert openpyxl.load_workbook(case.upload).active["G3"].value == cell


@only_mmbench
def test_cells_of_the_table_that_a_workbook_cannot_hold_are_named(case):
    case.refuses([case.rows[0] | {"text": "A" * 40_000}, case.rows[1]], "5, prediction: 40000 characters are more")
    case.questions.write_text(case.questions.read_text().replace("Which?", "Whi\x0bch?"))
    case.refuses(case.rows, f"{case.questions}, 12, question: .xlsx cannot hold the character '\\x0b'")


@only_mmbench
def test_without_openpyxl_the_extra_is_named(case, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    case.refuses(case.rows, "pip install -e '.[eval]'")


@every
def test_an_upload_that_cannot_be_written_is_refused(case):
    (case.upload.parent / "file").write_text("")
    folder = case.upload.parent / "file" / "below"
    case.options[-1] = folder if case.upload.suffix else folder / "out"
    case.refuses(case.rows, f"cannot write {folder / case.upload.name}: ")


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
    assert [entry["questionId"] for entry in read_json(predictions)] == [row["question_id"] for row in read_rows(src)]
    assert read_json(predictions)[1] == {"questionId": "201640614", "prediction": "woman"}


def test_seed_s_published_upload_is_reproduced_from_its_own_predictions(call, formats, tmp_path):
    """Byte for byte. The answers that it was made of are not to be had."""
    published = formats / "seed_bench" / "answers_upload.head.jsonl"
    rows = read_rows(published)
    label = {"question_type_id": 1, "data_type": "image", "answer": "B"}
    questions = [label | {"question_id": row["question_id"]} for row in rows]
    (tmp_path / "labels").write_text(json.dumps({"question_type": {"Scene": 1}, "questions": questions}))
    write_jsonl(tmp_path / "in", answered({int(row["question_id"]): row["prediction"] for row in reversed(rows)}))
    paths = options(tmp_path, annotation_file="labels", result_file="in", result_upload_file="out")
    assert call(load_script("convert_seed_for_submission"), *paths)[0] == 0
    assert (tmp_path / "out").read_text() == published.read_text()


def test_mmbench_s_published_answers_fill_a_workbook(call, formats, tmp_path):
    rows = read_rows(formats / "mmbench" / "answers.head.jsonl")
    questions = [
        {"index": row["question_id"], "question": row["prompt"], **dict(zip("ABCD", row["options"]))} for row in rows
    ]
    write_table(tmp_path / "questions", questions)
    paths = options(tmp_path, annotation_file="questions", upload_dir="new", result_dir=formats / "mmbench")
    assert call(load_script("convert_mmbench_for_submission"), *paths, "--experiment", "answers.head")[0] == 0
    sheet = read_sheet(tmp_path / "new" / "answers.head.xlsx")
    assert [(row[0], row[6]) for row in sheet[1:]] == [(row["question_id"], row["text"]) for row in rows]
