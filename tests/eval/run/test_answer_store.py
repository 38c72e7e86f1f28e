"""The answer file: what a killed run leaves in it, and which settings may go on from it."""

import json
import os
import shutil
import threading

import pytest

from llava.errors import InputError
from llava.eval.benchmarks import all_benchmarks
from llava.eval.benchmarks.questions import Question
from llava.eval.run import lock
from llava.eval.run.answers import AnswerStore, answer_line
from tests.eval.conftest import texts

SETTINGS = {"visual_token_num": 16, "temperature": 0}


def question(number: int, text: str = "") -> Question:
    return Question(number, text or f"Q{number}", None, text or f"Q{number}")


@pytest.fixture
def store(tmp_path) -> AnswerStore:
    """For four questions, the last two alike."""
    return AnswerStore(tmp_path / "out" / "merge.jsonl", [question(2), question(0), question(1), question(1)])


def again(store: AnswerStore) -> AnswerStore:
    """The store as the next run sees it."""
    store._lock.close()
    return AnswerStore(store.file, store.questions)


def write(store: AnswerStore, rank: int, *numbers: int, end: str = "") -> None:
    with store.appending(rank) as file:
        file.write("".join(answer_line(question(number), "yes", "m") for number in numbers) + end)


def test_answers_of_several_processes_become_one_file_in_order(store):
    assert store.resume(SETTINGS) == [0, 1, 2, 3]
    write(store, 1, 1, 2, 1)
    write(store, 0, 0)
    store.finish()
    assert texts(store.file) == [(2, "yes"), (0, "yes"), (1, "yes"), (1, "yes")]
    assert sorted(path.name for path in store.file.parent.iterdir()) == ["merge.jsonl", "merge.settings.json"]
    assert again(store).resume(SETTINGS) == []


@pytest.mark.parametrize("end", ['{"question_id": 0, "pro', '{"question_id": 0, "pro\n', "\x00\x00\x00", ""])
def test_what_was_answered_is_not_asked_again_and_half_a_line_is(store, end):
    store.resume(SETTINGS)
    write(store, 0, 2)
    write(store, 3, 1, end=end)
    store = again(store)
    assert store.resume(SETTINGS) == [1, 3]
    write(store, 0, 0, 1)
    store.finish()
    assert [number for number, _ in texts(store.file)] == [2, 0, 1, 1]


def test_a_broken_line_in_the_middle_is_named(store):
    store.resume(SETTINGS)
    write(store, 0, 2, end="what?\n")
    write(store, 0, 1)
    with pytest.raises(InputError, match=r"0\.jsonl, line 2: not JSON"):
        again(store).resume(SETTINGS)


def test_missing_and_double_answers_are_not_merged(store):
    store.resume(SETTINGS)
    write(store, 0, 2, 1, 1)
    with pytest.raises(InputError, match=r"1 question\(s\) unanswered: 0$"):
        store.finish()
    write(store, 1, 0, 2)
    with pytest.raises(InputError, match=r"1 question\(s\) answered more than once: 2$"):
        store.finish()
    assert not store.file.exists()


def test_a_run_killed_between_its_last_steps_is_finished(store):
    store.resume(SETTINGS)
    write(store, 0, 2, 0, 1, 1)
    lines = (store.parts / "0.jsonl").read_text()
    store.finish()
    store.parts.mkdir()
    (store.parts / "0.jsonl").write_text(lines)
    assert again(store).resume(SETTINGS) == []
    assert not store.parts.exists()


def test_a_merged_file_that_was_cut_is_completed(store):
    store.resume(SETTINGS)
    write(store, 0, 2, 0, 1, 1)
    store.finish()
    lines = store.file.read_text().splitlines(keepends=True)
    store.file.write_text(lines[0] + lines[1][:30])
    store = again(store)
    assert store.resume(SETTINGS) == [1, 2, 3]
    write(store, 0, 0, 1, 1)
    store.finish()
    assert [number for number, _ in texts(store.file)] == [2, 0, 1, 1]


def test_other_settings_do_not_go_on_from_old_answers(store):
    store.resume(SETTINGS)
    store = again(store)
    other = SETTINGS | {"visual_token_num": 8}
    assert store.resume(other) == [0, 1, 2, 3]  # there was nothing to lose
    write(store, 0, 2)
    for settings, named in (
        (SETTINGS, "visual_token_num 8 is now 16"),
        (other | {"temperature": 1}, "temperature 0 is now 1"),
        (other | {"prompts": "new"}, "prompts None is now 'new'"),
    ):
        store = again(store)
        with pytest.raises(InputError, match=f"other settings: {named}; --overwrite"):
            store.resume(settings)
    assert again(store).resume(other) == [1, 2, 3]
    score = store.file.with_suffix(".score.json")
    score.write_text("{}")
    store = again(store)
    assert store.resume(SETTINGS, overwrite=True) == [0, 1, 2, 3]
    assert score.exists()  # the run may still fail to start
    assert texts(store.parts / "0.jsonl") == [(2, "yes")]
    store.begin()
    assert not score.exists()
    assert again(store).resume(SETTINGS) == [0, 1, 2, 3]


def test_answers_of_unknown_origin_are_not_replaced(store):
    store.file.parent.mkdir()
    store.file.write_text(answer_line(question(2), "yes", "m"))
    with pytest.raises(InputError, match="not the settings they were made with: --overwrite"):
        store.resume(SETTINGS)
    assert again(store).resume(SETTINGS, overwrite=True) == [0, 1, 2, 3]


def test_two_runs_do_not_write_the_same_answers(store, monkeypatch):
    monkeypatch.setattr(lock, "RELEASE", 0.2)
    store.resume(SETTINGS)
    with pytest.raises(InputError, match="another run is writing"):
        AnswerStore(store.file, store.questions).resume(SETTINGS)
    again(store).resume(SETTINGS)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    store = AnswerStore(tmp_path / "file" / "merge.jsonl", [question(1)])
    with pytest.raises(InputError, match=r"cannot write .*merge\.jsonl"):
        store.resume(SETTINGS)


def finished(store: AnswerStore) -> list[str]:
    """The lines of the answer file, made whole."""
    store.resume(SETTINGS)
    write(store, 0, 2, 0, 1, 1)
    store.finish()
    return store.file.read_text().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ([(2, 1, 7, 1)], r"0\.jsonl, line 3: question 7 is none of these questions"),
        ([(2, 0, 2)], r"0\.jsonl, line 3: question 2 is answered a second time"),
        ([(1, 1, 1)], r"0\.jsonl, line 3: question 1 is answered a second time"),
        ([(2,), (2,)], r"1\.jsonl, line 1: question 2 is answered a second time"),
    ],
)
def test_an_answer_too_many_is_refused_before_a_model_is_loaded(store, parts, named):
    store.resume(SETTINGS)
    for rank, numbers in enumerate(parts):
        write(store, rank, *numbers)
    before = (store.parts / "0.jsonl").read_bytes()
    with pytest.raises(InputError, match=f"{named}: remove the line, and the same command goes on"):
        again(store).resume(SETTINGS)
    assert (store.parts / "0.jsonl").read_bytes() == before


@pytest.mark.parametrize("number", [2, 9])
def test_a_merged_file_with_an_answer_too_many_is_refused(store, number):
    lines = finished(store)
    store.file.write_text("".join(lines) + answer_line(question(number), "yes", "m"))
    with pytest.raises(InputError, match=rf"merge\.jsonl, line 5: question {number} is"):
        again(store).resume(SETTINGS)
    store.file.write_text("".join(lines))
    assert again(store).resume(SETTINGS) == []


def test_a_merged_file_in_another_order_is_put_in_order(store, caplog):
    lines = finished(store)
    store.file.write_text("".join(reversed(lines)))
    store = again(store)
    assert store.resume(SETTINGS) == []
    assert "is not in the order of the questions" in caplog.text
    assert not store.file.exists()
    store.finish()
    assert texts(store.file) == [(2, "yes"), (0, "yes"), (1, "yes"), (1, "yes")]


@pytest.mark.parametrize(
    "row",
    [
        {"question_id": [1], "prompt": "Q1", "text": ""},
        {"question_id": 1, "prompt": {}, "text": ""},
        {"question_id": 1, "prompt": "Q1", "text": None},
        {"question_id": 1, "prompt": "Q1", "text": "", "round_id": []},
    ],
)
def test_what_is_no_answer_is_named(store, row):
    store.resume(SETTINGS)
    write(store, 0, 2)
    with (store.parts / "0.jsonl").open("a") as file:
        file.write("\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"0\.jsonl, line 3: (question_id|prompt|round_id|text) is "):
        again(store).resume(SETTINGS)


def test_overwriting_with_the_same_settings_goes_on(store):
    store.resume(SETTINGS)
    write(store, 0, 2)
    store = again(store)
    assert store.resume(SETTINGS, overwrite=True) == [1, 2, 3]
    store.begin()
    assert texts(store.parts / "0.jsonl") == [(2, "yes")]


def test_everything_that_a_benchmark_makes_of_answers_goes_with_them(store):
    names = {"merge.score.json", "merge.items.json", "merge.run.json", "merge.output.json", "merge.result.json"}
    names |= {entry.submission for entry in all_benchmarks() if entry.submission is not None}
    assert {"testdev_balanced_predictions.json", "merge.xlsx", "merge.upload.json", "merge.upload.jsonl"} <= names
    finished(store)
    kept = store.file.with_name("notes.txt")
    for path in (kept, *map(store.file.with_name, names)):
        path.write_text("{}")
    store = again(store)
    store.resume(SETTINGS | {"temperature": 1}, overwrite=True)
    store.begin()
    left = {path.name for path in store.file.parent.iterdir()}
    assert left == {"merge.parts", "merge.settings.json", "notes.txt"}


def test_a_folder_that_is_removed_is_noticed_at_the_next_answer(store):
    store.resume(SETTINGS)
    with store.appending(0) as file:
        store.add(file, answer_line(question(2), "yes", "m"))
        shutil.rmtree(store.file.parent)
        with pytest.raises(InputError, match=r"0\.jsonl was removed while answers were written"):
            store.add(file, answer_line(question(0), "yes", "m"))


def test_a_run_lasts_as_long_as_its_last_process(store, monkeypatch):
    monkeypatch.setattr(lock, "RELEASE", 0.2)
    store.resume(SETTINGS)
    second = AnswerStore(store.file, store.questions)
    second.join(1)
    assert not store.has_ended(1)
    store._lock.close()  # the first process is gone
    with pytest.raises(InputError, match=f"another run is writing .*: process {os.getpid()} on "):
        AnswerStore(store.file, store.questions).resume(SETTINGS)
    second._lock.close()
    assert store.has_ended(1)
    assert again(store).resume(SETTINGS) == [0, 1, 2, 3]


def test_a_run_waits_for_one_that_is_about_to_end(store):
    store.resume(SETTINGS)
    threading.Timer(0.5, store._lock.close).start()
    assert AnswerStore(store.file, store.questions).resume(SETTINGS) == [0, 1, 2, 3]
