"""The settings that are compared, and the table of their scores."""

import statistics
from dataclasses import dataclass

from llava.pruning.method import VISPRUNER
from llava.tables import markdown_table

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


@dataclass(frozen=True)
class Setting:
    """How visual tokens are pruned.

    Args:
        tokens: the budget; None keeps all.
        method: the name of the pruning method.
        ratio: the share of important patches (`important_ratio`).
        seed: the seed of the method random (`pruning_seed`).
    """

    tokens: int | None
    method: str = VISPRUNER
    ratio: float = 0.5
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.method} {self.tokens} ratio {self.ratio} seed {self.seed}" if self.tokens else "all"


def rows_of_table() -> list[tuple[str, str, list[Setting]]]:
    """The rows of the table: budget, title of the method, and settings. Random patches have a setting for each seed."""
    rows = [("144 (all)", "", [Setting(None)])]
    for tokens in BUDGETS:
        rows.append((str(tokens), "VisPruner", [Setting(tokens)]))
        rows.append((str(tokens), "chance", [Setting(tokens, "random", seed=seed) for seed in range(SEEDS)]))
        rows += [(str(tokens), name, [Setting(tokens, method)]) for method, name in RIVALS.items()]
    for ratio in RATIOS:
        name = f"VisPruner, important_ratio {ratio}"
        rows.append((str(RATIO_BUDGET), name, [Setting(RATIO_BUDGET, ratio=ratio)]))
    return rows


def table(scores: dict[str, dict[str, float]]) -> str:
    """A Markdown table with a row for each of `rows_of_table`, and a column for each benchmark and for their mean.

    Args:
        scores: by the name of the setting and the benchmark, in percent.
    """
    names = list(next(iter(scores.values())))

    def cells(rows: list[dict[str, float]]) -> list[str]:
        columns = [[row[name] for row in rows] for name in names]
        columns.append([statistics.mean(row.values()) for row in rows])
        if len(rows) == 1:
            return [f"{column[0]:.1f}" for column in columns]
        return [f"{statistics.mean(column):.1f} ± {statistics.stdev(column):.1f}" for column in columns]

    lines = [["tokens", "chosen by", *names, "mean"]]
    lines += [[tokens, name, *cells([scores[s.name] for s in row])] for tokens, name, row in rows_of_table()]
    return markdown_table(lines, left=2) + "\n"
