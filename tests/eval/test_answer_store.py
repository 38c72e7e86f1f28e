"""The answer file: what a killed run leaves in it, and which settings may go on from it."""

import fcntl

import pytest

from llava.eval.answers import AnswerStore, answer_line
from llava.eval.questions import Question
from llava.utils import InputError
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
    if store._lock is not None:
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
    assert not score.exists()


def test_answers_of_unknown_origin_are_not_replaced(store):
    store.file.parent.mkdir()
    store.file.write_text(answer_line(question(2), "yes", "m"))
    with pytest.raises(InputError, match="not the settings they were made with: --overwrite"):
        store.resume(SETTINGS)
    assert again(store).resume(SETTINGS, overwrite=True) == [0, 1, 2, 3]


def test_two_runs_do_not_write_the_same_answers(store):
    store.resume(SETTINGS)
    with pytest.raises(InputError, match="another run is writing"):
        AnswerStore(store.file, store.questions).resume(SETTINGS)
    fcntl.flock(store._lock, fcntl.LOCK_UN)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    store = AnswerStore(tmp_path / "file" / "merge.jsonl", [question(1)])
    with pytest.raises(InputError, match=r"cannot write .*merge\.jsonl"):
        store.resume(SETTINGS)
