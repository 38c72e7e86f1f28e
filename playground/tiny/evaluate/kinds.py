"""Accuracy by kind of question."""

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

from llava.eval.benchmarks.files import read_jsonl
from llava.eval.benchmarks.vqa_accuracy import normalize_answer
from playground.tiny.evaluate.settings import ABOUT
from scripts.tables.book import Table


def truths(data: Path) -> dict[str, list[tuple[str, str]]]:
    """The (kind, right answer) of each question that has one, by benchmark, in the order of the question files."""

    def load(path: str):
        return json.loads((data / path).read_text(encoding="utf-8"))

    found = defaultdict(list)
    for label in load("gqa/data/questions/testdev_balanced_questions.json").values():
        form = "yes/no" if label["answer"] in ("yes", "no") else "other"
        found["GQA"].append((f"{label['types']['detailed']}, {form}", label["answer"]))
    for label in load("vqav2/v2_mscoco_test-dev2015_annotations.json")["annotations"]:
        form = label["answer_type"].replace("number", "other")
        found["VQAv2"].append((f"{label['question_type']}, {form}", label["multiple_choice_answer"]))
    seed = load("seed_bench/SEED-Bench.json")
    names = {number: name for name, number in seed["question_type"].items()}
    for label in seed["questions"]:
        found["SEED"].append((names[label["question_type_id"]], label["answer"]))
    for problem in load("scienceqa/problems.json").values():
        found["SQA"].append(("with image" if problem["image"] else "without image", "ABCD"[problem["answer"]]))
    for label in load("vizwiz/test.json"):
        found["VizWiz"].append(
            (label["answer_type"], Counter(a["answer"] for a in label["answers"]).most_common(1)[0][0])
        )
    for name, file in (("MMBench", "mmbench_dev_20230712.tsv"), ("MMBench-CN", "mmbench_dev_cn_20231003.tsv")):
        with (data / "mmbench" / file).open(encoding="utf-8", newline="") as table:
            found[name] = [(row["category"], row["answer"]) for row in csv.DictReader(table, delimiter="\t")]
    for row in read_jsonl(data / "MME" / "llava_mme.jsonl", "question file", ["image", "text"]):
        lines = (data / "MME" / "MME_Benchmark_release_version" / row["image"]).with_suffix(".txt").read_text("utf-8")
        asked = row["text"].split("\n")[0]
        label = next(line for line in lines.splitlines() if line.startswith(asked + " ")).split("\t")[1]
        found["MME"].append((row["category"], label))
    return found


def kinds(data: Path, answers: dict[str, list[str]]) -> list[dict]:
    """The accuracy of each kind of question, and of always giving its commonest answer, in percent.

    The kinds of GQA and VQAv2 are the same, and are counted together.
    """
    groups = defaultdict(list)
    for benchmark, labels in truths(data).items():
        family = "GQA, VQAv2" if benchmark in ("GQA", "VQAv2") else benchmark
        for (kind, right), said in zip(labels, answers[benchmark], strict=True):
            groups[family, kind].append((normalize_answer(right), normalize_answer(said)))
    rows = []
    for (family, kind), pairs in sorted(groups.items()):
        commonest = Counter(right for right, _ in pairs).most_common(1)[0][1]
        hits = sum(right == said for right, said in pairs)
        row = {"benchmark": family, "kind": kind, "questions": len(pairs)}
        rows.append(row | {"accuracy": 100 * hits / len(pairs), "commonest": 100 * commonest / len(pairs)})
    return rows


def kinds_table(rows: list[dict]) -> Table:
    """The rows of `kinds` as a table of docs/results."""
    names = {"benchmark": "benchmark", "kind": "kind", "questions": "questions"}
    percent = {"accuracy": "accuracy", "commonest": "commonest answer"}
    columns = [{"heading": heading} for heading in names.values()]
    columns += [{"heading": heading, "format": "{:.1f}"} for heading in percent.values()]
    return {"about": ABOUT, "columns": columns, "rows": [[row[name] for name in (*names, *percent)] for row in rows]}
