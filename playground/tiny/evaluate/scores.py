"""The questions of the bundled benchmarks, and their scores."""

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from llava.eval.benchmarks import find_benchmark
from llava.eval.benchmarks import vqav2 as eval_vqav2
from llava.eval.benchmarks.files import read_jsonl
from llava.eval.benchmarks.questions import Question
from llava.eval.benchmarks.vqa_accuracy import vqa_accuracy
from llava.eval.run.answers import write_answers

# The columns of the table, and the benchmarks' names in llava.eval.benchmarks.
BENCHMARKS = {
    "VQAv2": "vqav2",
    "GQA": "gqa",
    "VizWiz": "vizwiz",
    "SQA": "sqa",
    "TextVQA": "textvqa",
    "POPE": "pope",
    "MME": "mme",
    "MMBench": "mmbench",
    "MMBench-CN": "mmbench_cn",
    "MM-Vet": "mmvet",
    "SEED": "seed",
}


def read_benchmarks(data: Path) -> dict[str, list[Question]]:
    """All questions, by the title of the benchmark."""
    return {title: find_benchmark(name).read_questions(data) for title, name in BENCHMARKS.items()}


def score_vqav2(data: Path, result_file: Path) -> float:
    """VQA accuracy in percent."""
    labels = data / "vqav2" / "v2_mscoco_test-dev2015_annotations.json"
    return eval_vqav2.evaluate(labels, result_file).scores["accuracy"]


def score_vizwiz(data: Path, result_file: Path) -> float:
    """VQA accuracy in percent. The question's id is the index of its label."""
    labels = json.loads((data / "vizwiz" / "test.json").read_text(encoding="utf-8"))
    answers = {row["question_id"]: row["text"] for row in read_jsonl(result_file, "result file", ["text"])}
    hits = [
        vqa_accuracy(answers[i], [answer["answer"] for answer in label["answers"]]) for i, label in enumerate(labels)
    ]
    return 100 * statistics.mean(hits)


def score_mmvet(data: Path, result_file: Path) -> float:
    """The share, in percent, of the required words that the descriptions contain. In the real MM-Vet, GPT-4 judges."""
    labels = json.loads((data / "mm-vet" / "mm-vet.json").read_text(encoding="utf-8"))
    named = []
    for row in read_jsonl(result_file, "result file", ["question_id", "text"]):
        parts = labels[f"v1_{row['question_id']}"]["answer"].split("<AND>")
        named += [part.lower() in row["text"].lower() for part in parts]
    return 100 * statistics.mean(named)


# Benchmarks whose real labels are not public, so that llava.eval only converts their answers for submission.
OWN_SCORERS: dict[str, Callable[[Path, Path], float]] = {
    "VQAv2": score_vqav2,
    "VizWiz": score_vizwiz,
    "MM-Vet": score_mmvet,
}


def score(title: str, data: Path, result_file: Path) -> float:
    """The score of a benchmark in percent: POPE's mean F1, MME's share of possible points, accuracy of the rest."""
    if title in OWN_SCORERS:
        return OWN_SCORERS[title](data, result_file)
    benchmark = find_benchmark(BENCHMARKS[title])
    scores = benchmark.score(data / benchmark.folder, result_file, None).scores
    if title == "MME":
        return (scores["perception"] + scores["cognition"]) / (2 * len(scores["categories"]))
    return scores["mean_f1" if title == "POPE" else "accuracy"]


def score_all(data: Path, benchmarks: dict[str, list[Question]], answers: dict[str, list[str]]) -> dict[str, float]:
    """The score of every benchmark in percent. The answers go through answer files, as in the recipes."""
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for title in BENCHMARKS:
            file = Path(folder) / f"{title}.jsonl"
            write_answers(file, benchmarks[title], answers[title])
            scores[title] = score(title, data, file)
    return scores
