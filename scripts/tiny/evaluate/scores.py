"""The questions of the bundled benchmarks, and their scores."""

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from llava.eval.answers import answer_line
from llava.eval.eval_gqa import evaluate as score_gqa
from llava.eval.eval_mmbench import evaluate as score_mmbench
from llava.eval.eval_mme import evaluate as score_mme
from llava.eval.eval_pope import evaluate as score_pope
from llava.eval.eval_science_qa import evaluate as score_science
from llava.eval.eval_seed import evaluate as score_seed
from llava.eval.eval_textvqa import evaluate as score_textvqa
from llava.eval.eval_vqav2 import evaluate as score_vqav2
from llava.eval.files import read_jsonl
from llava.eval.questions import Question, read_mmbench_questions, read_question_file, read_science_questions
from llava.eval.vqa_accuracy import vqa_accuracy


def read_benchmarks(data: Path) -> dict[str, list[Question]]:
    """All questions, by the name of the benchmark."""
    science = data / "scienceqa"
    tables = {"MMBench": ("mmbench_dev_20230712.tsv", "en"), "MMBench-CN": ("mmbench_dev_cn_20231003.tsv", "cn")}
    files = {
        "VQAv2": ("vqav2/llava_vqav2_mscoco_test-dev2015.jsonl", "vqav2/test2015"),
        "GQA": ("gqa/llava_gqa_testdev_balanced.jsonl", "gqa/data/images"),
        "VizWiz": ("vizwiz/llava_test.jsonl", "vizwiz/test"),
        "TextVQA": ("textvqa/llava_textvqa_val_v051_ocr.jsonl", "textvqa/train_images"),
        "POPE": ("pope/llava_pope_test.jsonl", "pope/val2014"),
        "MME": ("MME/llava_mme.jsonl", "MME/MME_Benchmark_release_version"),
        "MM-Vet": ("mm-vet/llava-mm-vet.jsonl", "mm-vet/images"),
        "SEED": ("seed_bench/llava-seed-bench.jsonl", "seed_bench"),
    }
    questions = {name: read_question_file(data / file, data / images) for name, (file, images) in files.items()}
    questions["SQA"] = read_science_questions(science / "llava_test_CQM-A.json", science / "images" / "test", True)
    for name, (file, language) in tables.items():
        questions[name] = read_mmbench_questions(data / "mmbench" / file, True, language)
    return questions


def score_vizwiz(data: Path, result_file: Path) -> dict:
    """VQA accuracy in percent. The question's id is the index of its label."""
    labels = json.loads((data / "vizwiz" / "test.json").read_text(encoding="utf-8"))
    answers = {row["question_id"]: row["text"] for row in read_jsonl(result_file, "result file", ["text"])}
    hits = [
        vqa_accuracy(answers[i], [answer["answer"] for answer in label["answers"]]) for i, label in enumerate(labels)
    ]
    return {"accuracy": 100 * statistics.mean(hits)}


def score_mmvet(data: Path, result_file: Path) -> dict:
    """The share, in percent, of the required words that the descriptions contain. In the real MM-Vet, GPT-4 judges."""
    labels = json.loads((data / "mm-vet" / "mm-vet.json").read_text(encoding="utf-8"))
    named = []
    for row in read_jsonl(result_file, "result file", ["question_id", "text"]):
        parts = labels[f"v1_{row['question_id']}"]["answer"].split("<AND>")
        named += [part.lower() in row["text"].lower() for part in parts]
    return {"accuracy": 100 * statistics.mean(named)}


def scorers(data: Path) -> dict[str, Callable[[Path], float]]:
    """By the name of the benchmark, the function from an answer file to its score in percent.

    MME's is the percentage of the points that are possible.
    """
    vqav2, mme = data / "vqav2" / "v2_mscoco_test-dev2015_annotations.json", data / "MME"
    gqa = data / "gqa" / "data" / "questions" / "testdev_balanced_questions.json"

    def mme_percent(file: Path) -> float:
        scores = score_mme(mme / "MME_Benchmark_release_version", file)
        return (scores["perception"] + scores["cognition"]) / (2 * len(scores["categories"]))

    pope = data / "pope"
    return {
        "VQAv2": lambda file: score_vqav2(vqav2, file)["accuracy"],
        "GQA": lambda file: score_gqa(gqa, file)["accuracy"],
        "VizWiz": lambda file: score_vizwiz(data, file)["accuracy"],
        "SQA": lambda file: score_science(data / "scienceqa", file)[0]["accuracy"],
        "TextVQA": lambda file: score_textvqa(data / "textvqa" / "TextVQA_0.5.1_val.json", file)["accuracy"],
        "POPE": lambda file: score_pope(pope / "coco", pope / "llava_pope_test.jsonl", file)["mean_f1"],
        "MME": mme_percent,
        "MMBench": lambda file: score_mmbench(data / "mmbench" / "mmbench_dev_20230712.tsv", file)["accuracy"],
        "MMBench-CN": lambda file: score_mmbench(data / "mmbench" / "mmbench_dev_cn_20231003.tsv", file)["accuracy"],
        "MM-Vet": lambda file: score_mmvet(data, file)["accuracy"],
        "SEED": lambda file: score_seed(data / "seed_bench" / "SEED-Bench.json", file)["accuracy"],
    }


def score_all(data: Path, benchmarks: dict, answers: dict[str, list[str]]) -> dict[str, float]:
    """The score of every benchmark in percent. The answers go through answer files, as in the recipes."""
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, score in scorers(data).items():
            file = Path(folder) / f"{name}.jsonl"
            lines = (answer_line(question, text, "") for question, text in zip(benchmarks[name], answers[name]))
            file.write_text("".join(lines), encoding="utf-8")
            scores[name] = score(file)
    return scores
