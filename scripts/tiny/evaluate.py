"""Accuracy on the bundled benchmarks against the number of visual tokens.

python -m scripts.tiny.evaluate --model-path CHECKPOINT --data-dir DIR --output DIR

VisPruner and the other methods at every budget, chance with five seeds, and three shares of important tokens at one
budget; then, with all tokens, every kind of question beside what one gets by always giving its commonest answer.
Answers are written and scored as the recipes write and score them. A run that is cut off goes on with the settings
that are left.
"""

import argparse
import csv
import json
import os
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from llava.eval.answering import answer_questions
from llava.eval.answers import answer_line
from llava.eval.eval_gqa import evaluate as score_gqa
from llava.eval.eval_mmbench import evaluate as score_mmbench
from llava.eval.eval_mme import evaluate as score_mme
from llava.eval.eval_pope import evaluate as score_pope
from llava.eval.eval_science_qa import evaluate as score_science
from llava.eval.eval_seed import evaluate as score_seed
from llava.eval.eval_textvqa import evaluate as score_textvqa
from llava.eval.eval_vqav2 import evaluate as score_vqav2
from llava.eval.files import read_jsonl, write_json
from llava.eval.questions import Question, read_mmbench_questions, read_question_file, read_science_questions
from llava.eval.ranks import by_image
from llava.eval.vqa_accuracy import normalize_answer, vqa_accuracy
from llava.model.builder import load_pretrained_model
from llava.pruning.registry import VISPRUNER
from llava.utils import CommandParser, run_command

BUDGETS = (48, 32, 16, 8)
SEEDS = 5
RATIO_BUDGET, RATIOS = 16, (0.0, 0.5, 1.0)
RIVALS = {"fastervlm": "FasterVLM", "divprune": "DivPrune", "visionzip": "VisionZip", "fastv": "FastV"}
LONGEST = 96  # tokens of an answer; descriptions have about 60


@dataclass(frozen=True)
class Setting:
    """How the patches are chosen; `tokens` None keeps all."""

    tokens: int | None
    method: str = VISPRUNER
    ratio: float = 0.5
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.method} {self.tokens} ratio {self.ratio} seed {self.seed}" if self.tokens else "all"


def rows_of_table() -> list[tuple[str, str, list[Setting]]]:
    """Tokens, what chooses, and the settings (several are draws of chance) of each row."""
    rows = [("144 (all)", "", [Setting(None)])]
    for tokens in BUDGETS:
        rows.append((str(tokens), "VisPruner", [Setting(tokens)]))
        rows.append((str(tokens), "chance", [Setting(tokens, "random", seed=seed) for seed in range(SEEDS)]))
        rows += [(str(tokens), name, [Setting(tokens, method)]) for method, name in RIVALS.items()]
    for ratio in RATIOS:
        name = f"VisPruner, important_ratio {ratio}"
        rows.append((str(RATIO_BUDGET), name, [Setting(RATIO_BUDGET, ratio=ratio)]))
    return rows


def read_benchmarks(data: Path) -> dict[str, list[Question]]:
    """All questions, by benchmark."""
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
    """VQA accuracy in percent, joined by the number of the question."""
    labels = json.loads((data / "vizwiz" / "test.json").read_text(encoding="utf-8"))
    answers = {row["question_id"]: row["text"] for row in read_jsonl(result_file, "result file", ["text"])}
    hits = [
        vqa_accuracy(answers[i], [answer["answer"] for answer in label["answers"]]) for i, label in enumerate(labels)
    ]
    return {"accuracy": 100 * statistics.mean(hits)}


def score_mmvet(data: Path, result_file: Path) -> dict:
    """The share, in percent, of what should be named in a description that is. The real score is another model's."""
    labels = json.loads((data / "mm-vet" / "mm-vet.json").read_text(encoding="utf-8"))
    named = []
    for row in read_jsonl(result_file, "result file", ["question_id", "text"]):
        parts = labels[f"v1_{row['question_id']}"]["answer"].split("<AND>")
        named += [part.lower() in row["text"].lower() for part in parts]
    return {"accuracy": 100 * statistics.mean(named)}


def scorers(data: Path) -> dict[str, Callable[[Path], float]]:
    """By benchmark: a file of answers -> its score in percent (MME: of the points that can be had)."""
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


def truths(data: Path) -> dict[str, list[tuple[str, str]]]:
    """(kind, right answer) of every question whose answer is right or wrong, in the order of the question files."""

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
    """Accuracy of each kind of question and the share of its commonest answer, in percent; GQA and VQAv2 together."""
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


def answer_all(model_path: str, benchmarks: dict, setting: Setting, batch_size: int, threads: int) -> dict:
    """The answers to all questions by benchmark, in their order, on so many threads."""
    torch.set_num_threads(threads)
    loaded = load_pretrained_model(model_path, None, "llava-tiny")
    model = loaded[1]
    model.visual_token_num, model.important_ratio = setting.tokens, setting.ratio
    model.pruning_method, model.pruning_seed = setting.method, setting.seed
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": LONGEST}
    return {name: _answers(loaded, questions, options, batch_size) for name, questions in benchmarks.items()}


def _answers(loaded: tuple, questions: list[Question], options: dict, batch_size: int) -> list[str]:
    """The answers in the order of the questions, asked image by image."""
    order = by_image(questions, list(range(len(questions))))
    answered = answer_questions(loaded, [questions[i] for i in order], "vicuna_v1", options, batch_size)
    texts = {i: text for i, (_, text) in zip(order, answered, strict=True)}
    return [texts[i] for i in range(len(questions))]


def score_all(data: Path, benchmarks: dict, answers: dict[str, list[str]]) -> dict[str, float]:
    """The score of every benchmark, from answer files in the real format."""
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, score in scorers(data).items():
            file = Path(folder) / f"{name}.jsonl"
            lines = (answer_line(question, text, "") for question, text in zip(benchmarks[name], answers[name]))
            file.write_text("".join(lines), encoding="utf-8")
            scores[name] = score(file)
    return scores


def table(scores: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each way of choosing, a column for each benchmark, the unweighted mean last."""
    names = list(next(iter(scores.values())))

    def cells(rows: list[dict[str, float]]) -> list[str]:
        columns = [[row[name] for row in rows] for name in names]
        columns.append([statistics.mean(row.values()) for row in rows])
        if len(rows) == 1:
            return [f"{column[0]:.1f}" for column in columns]
        return [f"{statistics.mean(column):.1f} ± {statistics.stdev(column):.1f}" for column in columns]

    lines = [["tokens", "chosen by", *names, "mean"], ["---"] * (len(names) + 3)]
    lines += [[tokens, name, *cells([scores[s.name] for s in row])] for tokens, name, row in rows_of_table()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def kinds_table(rows: list[dict]) -> str:
    """Markdown of `kinds`."""
    lines = ["| benchmark | kind | questions | accuracy | commonest answer |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['benchmark']} | {row['kind']} | {row['questions']} | {row['accuracy']:.1f} | {row['commonest']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of scores.json, scores.md and kinds.md")
    parser.add_argument("--batch-size", type=int, default=32)
    default = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=default, help=f"settings tried at once ({default})")
    args = parser.parse_args()
    benchmarks = read_benchmarks(args.data_dir)
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "scores.json"
    scores = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    settings = dict.fromkeys(setting for *_, row in rows_of_table() for setting in row)
    left = [setting for setting in settings if setting.name not in scores]
    threads = 1 if args.processes > 1 else torch.get_num_threads()
    os.environ["TQDM_DISABLE"] = "1"  # in the processes: their bars would write over this one's
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        runs = {
            pool.submit(answer_all, args.model_path, benchmarks, setting, args.batch_size, threads): setting
            for setting in left
        }
        for run in tqdm(as_completed(runs), total=len(runs), desc="settings"):
            setting, answers = runs[run], run.result()
            if setting.tokens is None:
                (args.output / "kinds.md").write_text(kinds_table(kinds(args.data_dir, answers)), encoding="utf-8")
            scores[setting.name] = score_all(args.data_dir, benchmarks, answers)
            write_json(file, scores)
    (args.output / "scores.md").write_text(table(scores), encoding="utf-8")
    print(table(scores))


if __name__ == "__main__":
    run_command(main)
