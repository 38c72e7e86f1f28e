"""What each question gave, beside the score file, and that it is what the score is made of."""

import json
from collections import Counter

import pytest

from llava.errors import InputError
from llava.eval.benchmarks import all_benchmarks, find_benchmark
from llava.eval.benchmarks import vqav2 as eval_vqav2
from llava.eval.benchmarks.items import accuracy_items, make_items, read_items, write_items
from llava.eval.evaluation import BUNDLED_DATA, finish
from llava.eval.run.answers import answer_line
from llava.pruning import Settings
from tests.conftest import write_jsonl

SCORED = [entry.name for entry in all_benchmarks() if entry.score is not None and entry.made_by is None]
SAID = ("Yes", "No", "A", "B", "red", "B. left", "2", "circle", "no", "city", "bread")


def answered(name: str, folder, step: int = 1, reverse: bool = False):
    """A file of made-up answers to a bundled benchmark."""
    questions = find_benchmark(name).read_questions(BUNDLED_DATA)
    lines = [answer_line(question, SAID[i * step % len(SAID)], "") for i, question in enumerate(questions)]
    folder.mkdir()
    (folder / "merge.jsonl").write_text("".join(lines[::-1] if reverse else lines))
    return folder / "merge.jsonl"


@pytest.mark.parametrize("name", SCORED)
def test_the_items_of_every_benchmark_give_its_figures_to_the_last_bit(name, tmp_path):
    benchmark = find_benchmark(name)
    for step in (1, 2, 4):
        answers = answered(name, tmp_path / str(step), step)
        finish(benchmark, BUNDLED_DATA, answers, Settings())
        scores = json.loads(answers.with_name("merge.score.json").read_text())
        for headline in benchmark.headlines:
            items = read_items(answers.with_name("merge.score.json"), headline.key, scores[headline.key])
            assert 0 < items.figure == scores[headline.key]
            assert len({picture for _, _, picture in items.keys}) > 10


@pytest.mark.parametrize("name", SCORED)
def test_the_items_do_not_depend_on_the_order_of_the_answers(name, tmp_path):
    written = []
    for reverse in (False, True):
        answers = answered(name, tmp_path / str(reverse), reverse=reverse)
        finish(find_benchmark(name), BUNDLED_DATA, answers, Settings())
        written.append(answers.with_name("merge.items.json").read_text())
    assert written[0] == written[1]


def test_all_questions_about_a_picture_are_of_that_picture(tmp_path):
    """Of POPE in its three categories, of MMBench where one row has the picture and another names it."""
    answers = answered("pope", tmp_path / "pope")
    score = finish(find_benchmark("pope"), BUNDLED_DATA, answers, Settings()).score
    items = read_items(answers.with_name("merge.score.json"), "mean_f1", score)
    questions = find_benchmark("pope").read_questions(BUNDLED_DATA)
    pictures = Counter(picture for _, _, picture in items.keys)
    assert pictures == Counter(question.image.name for question in questions)
    assert {term for term, _, _ in items.keys} == {"adversarial", "popular", "random"}
    answers = answered("mmbench", tmp_path / "mmbench")
    score = finish(find_benchmark("mmbench"), BUNDLED_DATA, answers, Settings()).score
    items = read_items(answers.with_name("merge.score.json"), "accuracy", score)
    by_bytes = Counter(question.image for question in find_benchmark("mmbench").read_questions(BUNDLED_DATA))
    pictures = Counter(picture for _, _, picture in items.keys)
    assert sorted(pictures.values()) == sorted(by_bytes.values())


def test_a_scorer_on_its_own_writes_them_too(call, tmp_path):
    labels = BUNDLED_DATA / "vqav2" / "v2_mscoco_test-dev2015_annotations.json"
    answers = answered("vqav2", tmp_path / "vqav2")
    assert call(eval_vqav2, "--annotation-file", labels, "--result-file", answers)[0] == 0
    score = answers.with_name("merge.score.json")
    items = read_items(score, "accuracy", json.loads(score.read_text())["accuracy"])
    label = json.loads(labels.read_text())["annotations"][0]
    assert ("accuracy", str(label["question_id"]), str(label["image_id"])) in items.keys
    assert (
        call(eval_vqav2, "--annotation-file", labels, "--result-file", answers, "--output", tmp_path / "s.json")[0] == 0
    )
    assert (tmp_path / "s.items.json").read_text() == answers.with_name("merge.items.json").read_text()


def test_labels_without_pictures_make_each_question_its_own(call, tmp_path):
    labels = [{"question_id": i, "answer_type": "other", "answers": [{"answer": "cat"}]} for i in range(3)]
    (tmp_path / "labels.json").write_text(json.dumps({"annotations": labels}))
    write_jsonl(tmp_path / "a.jsonl", [{"question_id": i, "text": "cat"} for i in range(3)])
    items = eval_vqav2.evaluate(tmp_path / "labels.json", tmp_path / "a.jsonl").items
    assert len({picture for _, _, picture in items["accuracy"].keys}) == 3


def test_a_term_of_which_nothing_can_be_divided_counts_nothing():
    items = make_items({"a": [("1", "1", 2, 2)], "b": [("2", "1", 0, 0)]})
    assert items.figure == 50


def test_items_that_are_not_of_the_score_are_refused(tmp_path):
    score = tmp_path / "merge.score.json"
    assert read_items(score, "accuracy", 50) is None
    write_items({"accuracy": accuracy_items([1, 2], [1, 2], [True, False])}, score)
    assert read_items(score, "accuracy", 50).parts == [1, 0]
    assert read_items(score, "mean_f1", 50) is None
    with pytest.raises(InputError, match=r"accuracy is 50\.0, in merge\.score\.json 60: score the answers again"):
        read_items(score, "accuracy", 60)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "it is "),
        ('{"accuracy": {"combine": "mean"}}', "no accuracy.terms"),
        ('{"accuracy": {"combine": "max", "terms": {}}}', "accuracy.combine is 'max'"),
        ('{"accuracy": {"combine": "mean", "terms": {}}}', "accuracy: the figure has no questions"),
        ('{"accuracy": {"combine": "mean", "terms": {"a": [["1", "1", -1, 1]]}}}', "accuracy.terms.a[0][2] is -1"),
        ('{"accuracy": {"combine": "mean", "terms": {"a": [["1", "1", NaN, 1]]}}}', "accuracy.terms.a[0][2] is nan"),
        (
            '{"accuracy": {"combine": "mean", "terms": {"a": [["1", "1", 1, 1], ["1", "2", 1, 1]]}}}',
            "accuracy: '1' appears twice",
        ),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, text, says):
    (tmp_path / "merge.items.json").write_text(text)
    with pytest.raises(InputError) as error:
        read_items(tmp_path / "merge.score.json", "accuracy", 100.0)
    assert str(tmp_path / "merge.items.json") in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
