"""A sample of a benchmark is scored as the benchmark is: two parts of it add up to the whole."""

import json
import random

import pytest

from llava.errors import InputError
from llava.eval.benchmarks import all_benchmarks, find_benchmark
from llava.eval.evaluation import BUNDLED_DATA, sample_scorer
from llava.eval.run.answers import write_answers

GUESSES = ["yes", "no", "A", "B", "red", "circle", "city"]
SCORED = [entry.name for entry in all_benchmarks() if entry.score is not None and entry.made_by is None]


def guess(question) -> str:
    """An answer that is right now and then."""
    return random.Random(f"{question.question_id} {question.asked}").choice(GUESSES)


def score(name: str, questions: list, folder) -> dict:
    """Everything that the benchmark's scorer says of guesses at a sample."""
    benchmark, file = find_benchmark(name), folder / "merge.jsonl"
    folder.mkdir()
    write_answers(file, questions, list(map(guess, questions)))
    return benchmark.score(BUNDLED_DATA / benchmark.folder, file, questions).scores


def counts(name: str, scores: dict) -> list[float]:
    """What adds up over the parts of a benchmark."""
    if name == "pope":
        kinds = ("popular", "adversarial", "random")
        return [
            scores["categories"].get(kind, {}).get(count, 0) for kind in kinds for count in ("tp", "fp", "tn", "fn")
        ]
    if name == "mme":
        return [sum(row["samples"] * row["accuracy"] for row in scores["categories"].values())]
    sizes = [scores["samples"], scores["samples"] * scores["accuracy"]]
    if name == "sqa":
        sizes += [scores["image_samples"], scores["image_samples"] * (scores["image_accuracy"] or 0)]
    return sizes


@pytest.mark.parametrize("name", SCORED)
def test_the_parts_of_a_benchmark_add_up_and_all_of_it_has_its_own_headlines(name, tmp_path):
    benchmark, file = find_benchmark(name), tmp_path / "merge.jsonl"
    questions = benchmark.read_questions(BUNDLED_DATA)
    answers = list(map(guess, questions))
    write_answers(file, questions, answers)
    whole = benchmark.score(BUNDLED_DATA / benchmark.folder, file, None).scores
    shuffled = random.Random(0).sample(questions, len(questions))
    parts = [score(name, part, tmp_path / str(i)) for i, part in enumerate((shuffled[:40], shuffled[40:]))]
    added = [sum(pair) for pair in zip(*(counts(name, part) for part in parts))]
    assert added == pytest.approx(counts(name, whole))
    assert counts(name, whole)[-1] > 0
    (figures,) = sample_scorer(benchmark, BUNDLED_DATA)(questions, [answers])
    assert figures == pytest.approx({headline.heading: whole[headline.key] for headline in benchmark.headlines})


def test_what_is_no_label_is_left_to_the_scorer_to_name(tmp_path):
    for name, file, broken in (
        ("seed", "SEED-Bench.json", {"question_type": {}, "questions": [3]}),
        ("textvqa", "TextVQA_0.5.1_val.json", {"data": [{"image_id": "a", "question": 3, "answers": ["b"]}]}),
        ("gqa", "data/questions/testdev_balanced_questions.json", {}),
    ):
        benchmark = find_benchmark(name)
        questions = benchmark.read_questions(BUNDLED_DATA)[:2]
        path = tmp_path / benchmark.folder / file
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match="annotation file"):
            sample_scorer(benchmark, tmp_path)(questions, [["a", "b"]])


def test_without_public_labels_nothing_is_scored():
    assert sample_scorer(find_benchmark("mmvet"), BUNDLED_DATA) is None
