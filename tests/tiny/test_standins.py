"""The stand-ins: fresh scenes, labels that the scenes give, and one benchmark for the package and lmms-eval."""

import json
import re
from collections import Counter

import pytest

from llava.eval import __main__ as command
from llava.eval.benchmarks import all_benchmarks, find_benchmark
from llava.eval.benchmarks.items import read_items
from llava.eval.benchmarks.standins import BENCHMARKS
from llava.eval.evaluation import finish
from llava.eval.run.answers import write_answers
from llava.pruning import Settings
from playground.tiny import standins
from playground.tiny.drawing import jpeg
from playground.tiny.scenes import EVALUATION_SEED, SIZE, evaluation_scenes, make_scene, training_scenes
from tests.conftest import ROOT
from tests.eval.conftest import assert_one_line

NAMES = [benchmark.name for benchmark in BENCHMARKS]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    standins.write(folder)
    return folder


def labels(data, name) -> list[dict]:
    return [json.loads(line) for line in (data / "standins" / f"{name}.jsonl").read_text().splitlines()]


def test_no_scene_is_one_of_training_or_of_the_bundled_benchmarks():
    own = {scene.seed for scene in (*standins.scenes(), *standins.signs())}
    bundled = {scene.seed for scenes in evaluation_scenes().values() for scene in scenes}
    assert len(own) == 600
    assert min(own) > max(bundled) and min(own) > EVALUATION_SEED
    assert max(scene.seed for scene in training_scenes(100)) < EVALUATION_SEED
    assert not any(seed - EVALUATION_SEED in range(500_000, 510_000) for seed in own)  # the trial's


def test_the_files_are_small_whole_and_the_same_each_time(data, tmp_path):
    (tmp_path / "standins").mkdir()
    (tmp_path / "standins" / "scenes_ocr.jsonl").write_text('{"question_id": 1}\n')  # of another release
    standins.write(tmp_path)
    files = sorted(path.relative_to(data) for path in data.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((data / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)
    assert sum((data / file).stat().st_size for file in files) < 5e6
    assert len(labels(data, "scenes_places")) == 1130
    assert {name: len(labels(data, name)) >= 500 for name in NAMES} == dict.fromkeys(NAMES, True)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_what_the_scene_shows(data, name):
    for row in labels(data, name):
        seed = int(row["image"].removesuffix(".jpg"))
        is_sign = seed >= standins.SIGN_SEED
        scene = make_scene(seed, True, False) if is_sign else make_scene(seed)
        text, label = row["text"].split("\n")[0], row["label"]
        if name == "scenes_ocr":
            assert label == scene.sign.word
        elif name == "scenes_count" and label.isdigit():
            assert (text, int(label)) == ("How many shapes are there?", len(scene.things))
        elif name == "scenes_count":
            number = re.fullmatch(r"Is the number of shapes in the image (\d)\?", text)[1]
            assert label == ("Yes" if int(number) == len(scene.things) else "No")
        elif name == "scenes_exists":
            words = text.removeprefix("Is there a").removeprefix("n").removesuffix(" in the image?").split()
            there = [t for t in scene.things if t.shape == words[-1] and (len(words) == 1 or t.color == words[0])]
            assert label == ("Yes" if there else "No"), text
        elif match := re.fullmatch(r"Where is the (?:(\w+) )?(\w+)\?", text):
            (thing,) = (t for t in scene.things if t.shape == match[2] and match[1] in (None, t.color))
            column, line = ("left", "", "right")[3 * thing.x // SIZE], ("top", "", "bottom")[3 * thing.y // SIZE]
            assert label == (f"{line} {column}".strip() or "center")
    commonest = Counter(row["label"] for row in labels(data, name)).most_common(1)[0][1]
    assert commonest < 0.55 * len(labels(data, name))


def test_pictures_are_those_of_the_scenes(data):
    seed = standins.SIGN_SEED + 7
    assert (data / "standins" / "images" / f"{seed}.jpg").read_bytes() == jpeg(make_scene(seed, True, False))


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_are_right_and_items_are_of_pictures(data, tmp_path, name):
    benchmark, rows = find_benchmark(name), labels(data, name)
    questions = benchmark.read_questions(data)
    assert all(question.image.is_file() for question in questions)
    answers = tmp_path / "merge.jsonl"
    for said, score in ((lambda label: f" {label.upper()}.", 100), (lambda label: "no idea", 0)):
        write_answers(answers, questions, [said(row["label"]) for row in rows])
        assert finish(benchmark, data, answers, Settings()).score == score
    items = read_items(answers.with_name("merge.score.json"), "accuracy", 0)
    assert len({picture for _, _, picture in items.keys}) == len({row["image"] for row in rows}) < len(rows)


def test_all_stays_the_eleven_and_what_is_not_drawn_says_how(call, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "answer_all", lambda run, benchmarks, *_: asked.extend(benchmarks))
    assert call(command, "all", "--out-dir", tmp_path)[0] == 0
    assert len(asked) == 11 and {entry.name for entry in asked} == {b.name for b in all_benchmarks()} - set(NAMES)
    asked.clear()
    assert call(command, "all", "scenes_ocr", "--out-dir", tmp_path)[0] == 0
    assert len(asked) == 12
    options = ("--data-dir", tmp_path, "--out-dir", tmp_path)
    assert_one_line(call(command, "scenes_ocr", *options), "`python -m playground.tiny.standins` makes it")


def test_lmms_eval_reads_the_same_files():
    for name in NAMES:
        task = (ROOT / "scripts" / "lmms_eval" / f"{name}.yaml").read_text()
        assert f"task: {name}\n" in task
        assert f"data_files: ../../playground/data/scenes/standins/{name}.jsonl" in task
