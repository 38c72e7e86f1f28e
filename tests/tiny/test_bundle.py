"""What is bundled: files in the real formats, a model that answers, and what is left of it when patches are dropped."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from safetensors import safe_open

from llava.eval.benchmarks import standins
from llava.eval.benchmarks.science_qa import read_problems
from llava.eval.benchmarks.textvqa import read_labels as read_textvqa_labels
from llava.eval.run.answering import answer_questions
from playground.tiny.clip.quality import measure
from playground.tiny.evaluate.kinds import kinds, truths
from playground.tiny.evaluate.scores import read_benchmarks, score_all
from playground.tiny.scenes import COMPANIONS, SHAPES, evaluation_scenes
from tests.conftest import ROOT, load

DATA = ROOT / "playground" / "data" / "scenes"
CLIP = ROOT / "playground" / "checkpoints" / "clip-vit-tiny-patch14-168"
LLAVA = ROOT / "playground" / "checkpoints" / "llava-tiny"
GREEDY = {"do_sample": False, "max_new_tokens": 16}
# Share of right answers to a benchmark's first 160 questions: tokens (None: all 144), and what it may lie between.
MEASURED = [
    ("GQA", None, 0.87, 0.96),
    ("GQA", 16, 0.78, 0.89),
    ("TextVQA", None, 0.79, 0.89),
    ("TextVQA", 16, 0.71, 0.83),
    ("POPE", None, 0.93, 1.0),
    ("POPE", 16, 0.89, 0.98),
    ("SQA", None, 0.58, 0.76),
    ("SEED", None, 0.67, 0.82),
    ("SEED", 16, 0.53, 0.68),
    ("MMBench", None, 0.63, 0.81),
]


def size(folder: Path) -> int:
    """Bytes of what is bundled: the stand-ins are drawn when they are asked for."""
    files = (path for path in folder.rglob("*") if path.is_file() and standins.FOLDER not in path.parts)
    return sum(path.stat().st_size for path in files)


@pytest.fixture(scope="module")
def tiny():
    return load(LLAVA)


@pytest.fixture(scope="module")
def benchmarks():
    return read_benchmarks(DATA)


def test_the_bundle_is_small():
    assert size(DATA) < 10e6
    assert size(CLIP) + size(LLAVA) < 20e6


def test_there_are_enough_questions_and_every_picture_is_there(benchmarks):
    assert all(len(benchmarks[name]) >= 300 for name in ("POPE", "GQA", "VQAv2", "TextVQA"))
    for name, questions in benchmarks.items():
        for question in questions:
            missing = isinstance(question.image, Path) and not question.image.is_file()
            assert not missing, f"{name}: {question.image}"
    assert {question.image is None for question in benchmarks["SQA"]} == {True, False}


def test_labels_belong_to_questions_and_no_answer_is_always_right(benchmarks):
    labels = truths(DATA)
    assert {name: len(rows) for name, rows in labels.items()} == {name: len(benchmarks[name]) for name in labels}
    answers = {name: [right for _, right in rows] for name, rows in labels.items()}
    for row in kinds(DATA, answers):
        assert row["accuracy"] == 100
        if row["questions"] >= 20 and row["kind"] != "unanswerable":
            assert row["commonest"] < 75, row
    assert len(read_textvqa_labels(DATA / "textvqa" / "TextVQA_0.5.1_val.json")) == len(benchmarks["TextVQA"])
    assert read_problems(DATA / "scienceqa", "test").keys() == {question.question_id for question in benchmarks["SQA"]}


def right_answers(benchmarks) -> dict[str, list[str]]:
    """The right answers to all questions, by benchmark, in the order of the questions."""
    answers = {name: [right for _, right in rows] for name, rows in truths(DATA).items()}
    pope = {}
    for file in (DATA / "pope" / "coco").iterdir():
        pope |= {(row["image"], row["text"]): row["label"] for row in map(json.loads, file.read_text().splitlines())}
    answers["POPE"] = [pope[q.image.name, q.asked.split("\n")[0]] for q in benchmarks["POPE"]]
    rows = json.loads((DATA / "textvqa" / "TextVQA_0.5.1_val.json").read_text())["data"]
    words = {(row["image_id"], row["question"]): Counter(row["answers"]).most_common(1)[0][0] for row in rows}
    answers["TextVQA"] = [words[q.question_id, q.asked.split("\n")[0]] for q in benchmarks["TextVQA"]]
    labels = json.loads((DATA / "mm-vet" / "mm-vet.json").read_text())
    answers["MM-Vet"] = [labels[f"v1_{q.question_id}"]["answer"] for q in benchmarks["MM-Vet"]]
    return answers


def test_right_answers_get_every_point_and_silence_next_to_none(benchmarks):
    right = score_all(DATA, benchmarks, right_answers(benchmarks))
    assert right == dict.fromkeys(benchmarks, pytest.approx(100))
    nothing = score_all(DATA, benchmarks, {name: ["no"] * len(rows) for name, rows in benchmarks.items()})
    assert all(nothing[name] == 0 for name in ("SQA", "SEED", "MMBench", "MMBench-CN", "TextVQA", "POPE", "MM-Vet"))
    assert nothing["MME"] == pytest.approx(25)  # half of the questions, no image with both


def test_mme_asks_each_picture_a_yes_and_a_no():
    folders = sorted((DATA / "MME" / "MME_Benchmark_release_version").iterdir())
    assert len(folders) == 9
    for file in (file for folder in folders for file in folder.glob("*.txt")):
        lines = file.read_text(encoding="utf-8").splitlines()
        assert [line.split("\t")[1] for line in lines] == ["Yes", "No"]
        assert all(re.fullmatch(r".+\? Please answer yes or no\.", line.split("\t")[0]) for line in lines)


def test_pope_asks_for_what_its_categories_say():
    rows = {}
    for category in ("adversarial", "popular", "random"):
        file = DATA / "pope" / "coco" / f"coco_pope_{category}.json"
        rows[category] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        labels = Counter(row["label"] for row in rows[category])
        assert labels["yes"] == labels["no"] == 80
    for category, part in rows.items():
        for row in part:
            scene = evaluation_scenes()["any"][int(re.fullmatch(r"COCO_val2014_(\d+)\.jpg", row["image"])[1])]
            present = {thing.shape for thing in scene.things}
            (asked,) = (shape for shape in SHAPES if f" {shape} " in row["text"])
            assert row["label"] == ("yes" if asked in present else "no")
            absent = [shape for shape in SHAPES if shape not in present]  # the most frequent first
            companions = [shape for shape in absent if COMPANIONS[shape] in present]
            if row["label"] == "no" and category == "popular":
                assert asked == absent[0]
            if row["label"] == "no" and category == "adversarial" and companions:
                assert asked in companions
    negatives = {name: Counter(row["text"] for row in part if row["label"] == "no") for name, part in rows.items()}
    assert negatives["popular"].most_common(1)[0][1] > 2 * negatives["random"].most_common(1)[0][1]
    assert negatives["adversarial"] != negatives["popular"]


def test_the_checkpoint_has_the_published_layout(reference):
    published = reference / "llava-v1.5" / "llava-v1.5-tiny"
    index = json.loads((published / "pytorch_model.bin.index.json").read_text())["weight_map"]
    with safe_open(LLAVA / "model.safetensors", "pt") as file:
        ours = set(file.keys())
        dtypes = {file.get_slice(name).get_dtype() for name in ours}

    def shapes_of_names(names) -> set[str]:
        return {re.sub(r"layers\.\d+", "layers.N", name) for name in names if "inv_freq" not in name}

    assert shapes_of_names(ours) == shapes_of_names(index)
    assert dtypes == {"F16"}
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (LLAVA, published))
    for key in ("model_type", "architectures", "mm_projector_type", "mm_vision_select_layer", "image_aspect_ratio"):
        assert ours[key] == theirs[key]
    assert {"tokenizer.model", "tokenizer_config.json", "generation_config.json"} <= {p.name for p in LLAVA.iterdir()}


def test_the_towers_attention_finds_objects_and_its_captions_fit():
    quality = measure(CLIP)
    assert quality["times_chance"] >= 4
    assert quality["times_chance_overall"] >= 4
    assert quality["retrieval_at_1_of_256"] >= 0.7


def accuracy(tiny, questions, labels, tokens: int | None) -> float:
    """Share of `questions` answered as `labels` say, with so many visual tokens."""
    model = tiny[1]
    model.visual_token_num = tokens
    texts = [text.lower() for _, text in answer_questions(tiny, questions, "vicuna_v1", GREEDY, 32)]
    model.visual_token_num = None
    return sum(text == right.lower() for text, right in zip(texts, labels, strict=True)) / len(texts)


@pytest.mark.parametrize(("name", "tokens", "least", "most"), MEASURED)
def test_the_model_answers_as_well_as_it_did(tiny, benchmarks, name, tokens, least, most):
    questions, labels = benchmarks[name][:160], right_answers(benchmarks)[name][:160]
    assert least <= accuracy(tiny, questions, labels, tokens) <= most
