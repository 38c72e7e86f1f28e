"""What comes from outside is one line when it is not of its form: any field, any type, any size."""

import json
import os
import time

import pytest

from llava.errors import InputError
from llava.eval.benchmarks import mme as eval_mme
from llava.eval.benchmarks import pope as eval_pope
from llava.eval.benchmarks import science_qa as eval_science_qa
from llava.eval.benchmarks.questions import read_mmbench_questions, read_question_file, read_science_questions
from llava.files import read_json_object
from tests.conftest import write_jsonl
from tests.eval.benchmarks.score_cases import CASES
from tests.eval.benchmarks.tables import encoded, write_table
from tests.eval.conftest import assert_one_line

ODD = (None, True, 7, -1, 1.5, 10**30, "", "x", "\0", "\ud800", [], ["x"], [1], [[]], {}, {"x": 1}, {"question_id": []})
GOOD = {"question_id": 1, "image": "a.png", "text": "What?"}


@pytest.mark.parametrize("field", GOOD)
def test_a_question_with_any_value_in_a_field_is_read_or_named(tmp_path, field):
    for value in ODD:
        write_jsonl(tmp_path / "q.jsonl", [GOOD | {"question_id": 0}, GOOD | {field: value}])
        try:
            question = read_question_file(tmp_path / "q.jsonl", tmp_path)[1]
        except InputError as error:
            assert f"q.jsonl, line 2: {field} is" in str(error) or "line 2: not JSON" in str(error)
        else:
            assert not isinstance(value, float | bool | list | dict | None)
            (tmp_path / "out").write_text(f"{question.question_id} {question.asked}", encoding="utf-8")
            assert not question.image.exists() or question.image == tmp_path / value


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("[" * 100_000, "line 2: not JSON"),
        ('{"question_id": ' + "9" * 5_000 + "}", "line 2: not JSON"),
        ('{"question_id": 1, "image": "a.png", "text": "\\ud800"}', "line 2: not JSON"),
        ("[]", "line 2: it is []"),
        ("7", "line 2: it is 7"),
    ],
)
def test_a_line_that_nothing_should_be_made_of_is_refused_at_once(tmp_path, line, named):
    (tmp_path / "q.jsonl").write_text(json.dumps(GOOD) + "\n" + line)
    start = time.process_time()
    with pytest.raises(InputError, match=r"^question file .*q\.jsonl, ") as raised:
        read_question_file(tmp_path / "q.jsonl", tmp_path)
    assert named in str(raised.value)
    assert len(str(raised.value)) < 400
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5_000 + "}", '{"a": ' * 100_000])
def test_json_that_python_cannot_take_is_one_line(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"the config .*x\.json is (not JSON|nested too deeply)"):
        read_json_object(tmp_path / "x.json", "config")
    with pytest.raises(InputError, match=r"the question file .*x\.json is (not JSON|nested too deeply)"):
        read_science_questions(tmp_path / "x.json", tmp_path, False)


@pytest.mark.parametrize("reader", [read_question_file, lambda file, _: read_mmbench_questions(file)])
def test_what_is_no_file_is_not_waited_for(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(InputError, match=r"cannot read the question file .*: not a file"):
            reader(path, tmp_path)


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "q.jsonl").write_bytes(json.dumps(GOOD | {"text": "é"}, ensure_ascii=False).encode("utf-16"))
    with pytest.raises(InputError, match=r"cannot read the question file .*q\.jsonl: 'utf-8' codec"):
        read_question_file(tmp_path / "q.jsonl", tmp_path)


@pytest.mark.parametrize("field", ["id", "image", "conversations"])
def test_a_science_question_with_any_value_in_a_field_is_read_or_named(tmp_path, field):
    good = {"id": "4", "image": "x.png", "conversations": [{"from": "human", "value": "?"}]}
    for value in (*ODD, [{"from": "human", "value": 5}]):
        (tmp_path / "q.json").write_text(json.dumps([good | {"id": "1"}, good | {field: value}]))
        try:
            read_science_questions(tmp_path / "q.json", tmp_path, True)
        except InputError as error:
            says = str(error)
            assert "q.json, entry 2: " in says or ", first turn: " in says or "q.json is not JSON in UTF-8" in says
        else:
            assert value is None or isinstance(value, str | int)


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ({"index": "9" * 5_000}, "is no index"),
        ({"index": "٣"}, "is no index"),
        ({"image": "A" * 46_000_000}, "field larger than field limit"),
    ],
)
def test_an_mmbench_cell_that_nothing_should_be_made_of_is_refused(tmp_path, cells, named):
    row = {"index": "3", "question": "?", "A": "x", "B": "y", "image": encoded(0)}
    write_table(tmp_path / "t.tsv", [row | {"index": "1"}, row | cells])
    with pytest.raises(InputError, match=r"question file .*t\.tsv") as raised:
        read_mmbench_questions(tmp_path / "t.tsv")
    assert named in str(raised.value)


def test_a_column_stands_once(tmp_path):
    (tmp_path / "t.tsv").write_text("index\tquestion\tA\tB\tA\timage\n1\t?\tx\ty\tz\tAAAA\n")
    with pytest.raises(InputError, match="header: a column appears twice"):
        read_mmbench_questions(tmp_path / "t.tsv")


def _places(value, path=()):
    """Every place in a JSON value, by keys from the outside in."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _places(inner, (*path, key))


def _with(value, path, odd):
    """The value with `odd` at a place."""
    if not path:
        return odd
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(copy[path[0]], path[1:], odd)
    return copy


def _is_scored_or_one_line(result) -> bool:
    if result[0] == 0:
        return True
    assert_one_line(result, "")
    assert len(result[2]) < 500
    return False


@pytest.mark.parametrize("name", [name for name in CASES if name != "mmbench"])
def test_labels_with_any_value_anywhere_are_scored_or_named(score, tmp_path, name):
    make, module, _ = CASES[name]
    labels, rows = make(tmp_path)
    good = json.loads(labels.read_text())
    for path in _places(good):
        for odd in (None, True, 7, "\ud800", ["x"], [[]], {"x": 1}):
            labels.write_text(json.dumps(_with(good, path, odd)))
            scored = _is_scored_or_one_line(score(module, labels, rows))
            if path and path[-1] in ("answer", "answers"):
                assert not scored or odd == ["x"]  # the annotators' answers to a question of TextVQA


@pytest.mark.parametrize("name", CASES)
def test_answers_with_any_value_in_a_field_are_scored_or_named(score, tmp_path, name):
    make, module, _ = CASES[name]
    labels, rows = make(tmp_path)
    for field in ("question_id", "prompt", "text", "round_id", "option_char"):
        for odd in ODD:
            if _is_scored_or_one_line(score(module, labels, [*rows[:-1], rows[-1] | {field: odd}])):
                assert field != "text" or isinstance(odd, str)


@pytest.mark.parametrize(
    ("name", "path", "odd", "named"),
    [
        ("gqa", ("2", "answer"), 5, "question 2: answer is 5"),
        ("seed", ("questions", 1, "answer"), "Z", "question 2: answer is 'Z'"),
        ("seed", ("questions", 1, "answer"), 1, "question 2: answer is 1"),
        ("vqav2", ("annotations", 0, "answers", 3, "answer"), 5, "annotation 1: answers[3].answer is 5"),
        ("textvqa", ("data", 2, "answers", 0), None, "entry 3: answers[0] is None"),
        ("textvqa", ("data", 2, "answers"), "yes", "entry 3: answers is 'yes'"),
    ],
)
def test_a_label_of_a_wrong_type_is_named(score, tmp_path, name, path, odd, named):
    make, module, _ = CASES[name]
    labels, rows = make(tmp_path)
    labels.write_text(json.dumps(_with(json.loads(labels.read_text()), path, odd)))
    assert_one_line(score(module, labels, rows), named)


def test_science_qa_s_labels_with_any_value_anywhere_are_scored_or_named(call, tmp_path):
    problem = {"question": "?", "choices": ["x", "y"], "answer": 0, "image": None}
    good = {"problems.json": {"1": problem, "2": problem}, "pid_splits.json": {"test": ["1", "2"]}}
    write_jsonl(tmp_path / "a.jsonl", [{"question_id": i, "prompt": "", "text": "A"} for i in "12"])
    for path in (path for path in _places(good) if len(path) > 1):
        for odd in (None, True, 7, "\ud800", ["x"], [[]], {"x": 1}):
            for name, content in _with(good, path, odd).items():
                (tmp_path / name).write_text(json.dumps(content))
            options = ["--base-dir", tmp_path, "--result-file", tmp_path / "a.jsonl"]
            scored = _is_scored_or_one_line(call(eval_science_qa, *options))
            assert not (scored and path[-1] == "answer")


def test_pope_s_files_with_any_value_in_a_field_are_scored_or_named(call, tmp_path):
    question = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?\nAnswer.", "category": "random"}
    label = {"image": "a.jpg", "text": "Is there a dog?", "label": "yes"}
    write_jsonl(tmp_path / "a.jsonl", [{"question_id": 1, "prompt": "", "text": "Yes"}])
    files = {"q.jsonl": question, "coco_pope_random.json": label}
    options = ["--annotation-dir", tmp_path, "--question-file", tmp_path / "q.jsonl", "--result-file"]
    for name, row in files.items():
        for field in row:
            for odd in ODD:
                for other, good in files.items():
                    write_jsonl(tmp_path / other, [good | ({field: odd} if other == name else {})])
                _is_scored_or_one_line(call(eval_pope, *options, tmp_path / "a.jsonl"))


def test_mme_s_answers_with_any_value_in_a_field_are_scored_or_named(call, tmp_path):
    (tmp_path / "count").mkdir()
    (tmp_path / "count" / "1.txt").write_bytes(b"\xef\xbb\xbfIs it?\tYes\n")
    good = {"question_id": "count/1.png", "prompt": "Is it?", "text": "Yes"}
    options = ["--data-dir", tmp_path, "--result-file", tmp_path / "a.jsonl"]
    write_jsonl(tmp_path / "a.jsonl", [good])
    assert call(eval_mme, *options)[0] == 0
    for field in good:
        for odd in ODD:
            write_jsonl(tmp_path / "a.jsonl", [good | {field: odd}])
            _is_scored_or_one_line(call(eval_mme, *options))
