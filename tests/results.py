"""A results file that fits the schema, and what may be wrong with one."""

import json

GOOD = {
    "form": "llava.eval 1",
    "date": "2026-11-30",
    "command": "python -m llava.eval pope --results r.json",
    "checkpoint": {"name": "llava-a", "digest": None},
    "machines": [{"device": "a GPU", "cores": 8, "dtype": "float16", "versions": {"torch": "2.13.0"}}],
    "rows": [
        {
            "method": "vispruner",
            "settings": {"visual_token_num": 64, "pruning_method": "vispruner", "important_ratio": 0.5},
            "figures": [
                {
                    "benchmark": "pope",
                    "split": "",
                    "heading": "POPE F1",
                    "metric": "mean_f1",
                    "unit": "%",
                    "value": 80.4,
                    "interval": [79.0, 82.0],
                    "seeds": [],
                    "questions": 8910,
                    "kept": 64,
                    "from_unpruned": None,
                    "share": None,
                    "compared": {"pool": "↑"},
                }
            ],
        }
    ],
}


def changed(path: str, value=None) -> dict:
    """GOOD with another value at a path of keys, or, without a value, without what is there."""
    results = json.loads(json.dumps(GOOD))
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    place = results
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return results
