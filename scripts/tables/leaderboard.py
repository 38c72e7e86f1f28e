"""The leaderboard's section of a run, from its results file."""

import statistics
from collections.abc import Callable

from llava.eval.report.bootstrap import DRAWS, LEVEL
from llava.eval.report.intervals import BASELINES, MARKS
from llava.eval.report.results import Figure, Results, Row
from llava.eval.report.score_table import ABSENT, BLIND
from scripts.tables.book import markdown


def section(name: str, run: Results) -> str:
    """What a run was measured with, its figures, and what is kept of the gain over `blind`."""
    machines = []
    for each in run["machines"]:
        versions = [f"{package} {version}" for package, version in each["versions"].items()]
        about = [each["device"] or "a machine that was not noted", each["cores"] and f"{each['cores']} cores"]
        machines.append(", ".join(filter(None, [*about, each["dtype"], *versions])))
    checkpoint = " ".join(filter(None, [f"`{run['checkpoint']['name']}`", run["checkpoint"]["digest"]]))
    rows = sorted(run["rows"], key=lambda row: (_budget(row) is not None, -(_budget(row) or 0)))  # stable
    others = _varied(rows)
    headings = list(dict.fromkeys(_heading(figure) for row in rows for figure in row["figures"]))
    label = ["method", "tokens", "kept", *(other.replace("_", " ") for other in others)]

    def table(show: Callable[[Figure], str | None]) -> str:
        lines = []
        for row in rows:
            found = {_heading(figure): show(figure) for figure in row["figures"]}
            if any(found.values()):
                lines.append([*_label(row, others), *(found.get(each) or ABSENT for each in headings)])
        return markdown([*label, *headings], lines) if lines else ""

    shares = table(_share)
    says = "What is kept of the gain over `blind`, (score - blind) / (unpruned - blind), in percent:\n"
    parts = [
        f"## {name}\n",
        f"{checkpoint}, on {'; '.join(machines)}; {run['date']}:\n\n```\n{run['command']}\n```\n",
        table(_score),
        _legend(rows),
        *([says, shares] if shares else []),
    ]
    return "\n".join(parts)


def _budget(row: Row) -> int | None:
    return row["settings"]["visual_token_num"]


def _varied(rows: list[Row]) -> list[str]:
    """The settings besides method, budget and seed that rows differ in, apart from where a method reads none."""
    names = dict.fromkeys(name for row in rows for name in row["settings"])
    hidden = ("visual_token_num", "pruning_method", "pruning_seed")
    values = {name: [row["settings"].get(name) for row in rows] for name in names if name not in hidden}
    return [name for name, own in values.items() if len({str(each) for each in own if each is not None}) > 1]


def _label(row: Row, others: list[str]) -> list[str]:
    settings, kept = row["settings"], [figure["kept"] for figure in row["figures"]]
    tokens = settings["visual_token_num"]
    told = "0" if row["method"] == BLIND else "all" if tokens is None else str(tokens)
    mean = ABSENT if None in kept else f"{statistics.fmean(kept):.4g}"
    more = [settings.get(other) for other in others]
    return [row["method"], told, mean, *(ABSENT if value is None else str(value) for value in more)]


def _heading(figure: Figure) -> str:
    return f"{figure['heading']} ({figure['split']})" if figure["split"] else figure["heading"]


def _score(figure: Figure) -> str:
    spread = f" ± {statistics.stdev(figure['seeds']):.1f}" if len(figure["seeds"]) > 1 else ""
    interval = " [{:.1f}, {:.1f}]".format(*figure["interval"]) if figure["interval"] else ""
    marks = [mark for name, mark in figure["compared"].items() if name not in BASELINES]
    marks += [f"≈{name}" for name in BASELINES if figure["compared"].get(name) == "≈"]
    return " ".join([f"{figure['value']:.1f}{spread}{interval}", *marks])


def _share(figure: Figure) -> str | None:
    if (share := figure["share"]) is None:
        return None
    return f"{share['value']:.1f}" + (" [{:.1f}, {:.1f}]".format(*share["interval"]) if share["interval"] else "")


def _legend(rows: list[Row]) -> str:
    """What stands in the cells of a run."""
    figures = [figure for row in rows for figure in row["figures"]]
    says = [f"In brackets: the {LEVEL} % interval of {DRAWS:,} bootstrap draws of the pictures."]
    if seeds := sorted({len(figure["seeds"]) for figure in figures if figure["seeds"]}):
        says.append(
            f"±: mean and standard deviation of {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds."
        )
    for name in dict.fromkeys(name for figure in figures for name in figure["compared"] if name not in BASELINES):
        says.append(f"Beside it, compared with `{name}` at the same settings: {MARKS}.")
    for name in BASELINES:
        if any(figure["compared"].get(name) == "≈" for figure in figures):
            says.append(f"≈{name}: not distinguishable from `{name}` at the same settings.")
    questions = dict.fromkeys((_heading(figure), figure["questions"]) for figure in figures)
    says.append(f"Questions: {', '.join(f'{heading} {number:,}' for heading, number in questions)}.")
    return "\n".join(says) + "\n"
