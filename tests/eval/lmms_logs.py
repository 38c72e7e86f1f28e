"""Logs as lmms-eval 0.7.3 writes them with --log_samples."""

import json
from pathlib import Path

from tests.conftest import write_jsonl

# What a sample of a metric holds, and the total that lmms-eval makes of them.
VALUES = {
    "docvqa_val": ("anls", [1.0, 0.75, 0.0], 1.75 / 3),
    "mmstar": ("average", [{"l2_category": c, "score": s} for c, s in (("a", 1.0), ("a", 0.0), ("b", 1.0))], 0.75),
    "ocrbench": ("ocrbench_accuracy", [{"question_type": "x", "score": s} for s in (1, 0, 1)], 2 / 1000),
    "pope": (
        "pope_f1_score",  # one of each: hit, missed, false alarm, no alarm, and what is neither yes nor no
        [
            {"ground_truth": truth, "prediction": said, "score": float(truth == said)}
            for truth, said in (("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no"), ("yes", "a dog"))
        ],
        0.5,
    ),
    "refcoco_bbox_rec_val": (
        "refcoco_ACC@0.5",  # the overlap is 0.5, 0.4, none
        [{"bbox": [0, 0, 1, 1], "pred": box} for box in ([0, 0, 0.5, 1], [0, 0, 0.4, 1], [0, 0, 0, 0])],
        1 / 3,
    ),
}


def write_log(
    folder: Path,
    task: str,
    metrics: dict[str, tuple[list, float]],
    *,
    model: str = "llava_vispruner",
    arguments: str = "pretrained=x/llava-a,visual_token_num=64",
    date: str = "20260101_000000",
    pictures: list | None = None,
    question: str = "question",
) -> Path:
    """A run's results and samples of a task, from each metric's values of the documents and its total."""
    number = len(next(iter(metrics.values()))[0])
    totals = {f"{name},none": total for name, (_, total) in metrics.items()}
    results = {
        "results": {task: totals},
        "n-samples": {task: {"original": number, "effective": number}},
        "config": {"model": model, "model_args": arguments},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{date}_results.json").write_text(json.dumps(results))
    rows = []
    for i in range(number):
        row = {"doc_id": i, "target": "t", "input": f"{question} {i}", "doc_hash": "0", "filtered_resps": "a"}
        row["token_counts"] = [None if pictures is None else {"picture": pictures[i]}]
        rows.append(row | {name: values[i] for name, (values, _) in metrics.items()})
    samples = folder / f"{date}_samples_{task}.jsonl"
    write_jsonl(samples, rows[::2] + rows[1::2])  # as two processes leave them
    return samples


def write_hits(folder: Path, task: str, right: int, number: int, metric: str = "exact_match", **options) -> Path:
    """A run that answers the first `right` of `number` documents right."""
    return write_log(folder, task, {metric: ([float(i < right) for i in range(number)], right / number)}, **options)
