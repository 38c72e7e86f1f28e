"""The settings that are compared, and the table of their scores, in the form of docs/results."""

import statistics

from llava.pruning.settings import Settings
from scripts.tables.book import About, Table

ABOUT: About = {"kind": "measured", "command": "python -m playground.tiny.evaluate"}
BUDGETS = (48, 32, 16, 8)
SEEDS = 5
RATIO_BUDGET, RATIOS = 16, (0.0, 0.5, 1.0)
RIVALS = {
    "fastervlm": "FasterVLM",
    "divprune": "DivPrune",
    "visionzip": "VisionZip",
    "fastv": "FastV",
    "scope": "SCOPE",
    "cdpruner": "CDPruner",
    "holov": "HoloV",
    "mmtok": "MMTok",
    "vispruner_stable": "VisPruner, stable",
}


def name_of(setting: Settings) -> str:
    """What the scores of a setting are kept under."""
    if not setting.prunes:
        return "all"
    method, tokens = setting.pruning_method, setting.visual_token_num
    return f"{method} {tokens} ratio {setting.important_ratio} seed {setting.pruning_seed}"


def rows_of_table() -> list[tuple[str, str, list[Settings]]]:
    """The rows of the table: budget, title of the method, and settings. Random patches have a setting for each seed."""
    rows = [("144 (all)", "", [Settings()])]
    for tokens in BUDGETS:
        chance = [Settings(tokens, pruning_method="random", pruning_seed=seed) for seed in range(SEEDS)]
        rows += [(str(tokens), "VisPruner", [Settings(tokens)]), (str(tokens), "chance", chance)]
        rows += [(str(tokens), name, [Settings(tokens, pruning_method=method)]) for method, name in RIVALS.items()]
    for ratio in RATIOS:
        rows.append((str(RATIO_BUDGET), f"VisPruner, important_ratio {ratio}", [Settings(RATIO_BUDGET, ratio)]))
    return rows


def table(scores: dict[str, dict[str, float]]) -> Table:
    """The table with a row for each of `rows_of_table`, and a column for each benchmark and for their mean.

    Args:
        scores: by the name of the setting and the benchmark, in percent.
    """
    names = list(next(iter(scores.values())))

    def cells(rows: list[dict[str, float]]) -> list[float | list[float]]:
        columns = [[row[name] for row in rows] for name in names]
        columns.append([statistics.mean(row.values()) for row in rows])
        if len(rows) == 1:
            return [column[0] for column in columns]
        return [[statistics.mean(column), statistics.stdev(column)] for column in columns]

    rows = [
        [tokens, name, *cells([scores[name_of(setting)] for setting in row])] for tokens, name, row in rows_of_table()
    ]
    figures = [{"heading": name, "format": ["{:.1f}", "{:.1f} ± {:.1f}"]} for name in (*names, "mean")]
    columns = [{"heading": "tokens"}, {"heading": "chosen by"}, *figures]
    return {"about": ABOUT, "columns": columns, "rows": rows}
