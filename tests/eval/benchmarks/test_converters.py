"""The uploads made of answers, in the formats that the benchmarks' servers and scorers read, and what is refused."""

import pytest

from tests.conftest import load_script, write_jsonl
from tests.eval.benchmarks.converter_cases import CASES, WITH_QUESTIONS, read_json, vqav2
from tests.eval.conftest import assert_one_line, read_jsonl

every = pytest.mark.parametrize("case", CASES, indirect=True)
with_questions = pytest.mark.parametrize("case", WITH_QUESTIONS, indirect=True)


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
    case.refuses([*case.rows[1:], case.rows[0] | {"text": None}], "text is None")
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
    case.refuses(case.rows, f"{case.questions} has {len(read_jsonl(case.questions)) // 2} id(s) more than once")


@pytest.mark.parametrize(
    ("case", "field", "value", "named"),
    [("vqav2", "question_id", "n7", "the id 'n7' is not a whole number"), ("vizwiz", "image", 7, "image is 7")],
    indirect=["case"],
)
def test_questions_that_the_server_would_refuse_are_named(case, field, value, named):
    rows = read_jsonl(case.questions)
    write_jsonl(case.questions, [*rows[:-1], rows[-1] | {field: value}])
    case.refuses(case.rows, named)


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


@every
def test_an_upload_that_cannot_be_written_is_refused(case):
    (case.upload.parent / "file").write_text("")
    folder = case.upload.parent / "file" / "below"
    case.options[-1] = folder if case.upload.suffix else folder / "out"
    case.refuses(case.rows, f"cannot write {folder / case.upload.name}: ")
