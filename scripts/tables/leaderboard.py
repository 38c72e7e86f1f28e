"""The leaderboard's section of a run, from its results file."""

import statistics
from collections.abc import Callable

from llava.eval.report.bootstrap import DRAWS, LEVEL
from llava.eval.report.intervals import BASELINES, MARKS
from llava.eval.report.results import Figure, Results, Row
from llava.eval.report.score_table import ABSENT, BLIND
from scripts.tables.book import markdown


def section(name: str, run: Results) -> str:
    """What a run was measured with, an overview of its methods, and the figures and shares at each budget."""
    machines = []
    for each in run["machines"]:
        versions = [f"{package} {version}" for package, version in each["versions"].items()]
        about = [each["device"] or "a machine that was not noted", each["cores"] and f"{each['cores']} cores"]
        machines.append(", ".join(filter(None, [*about, each["dtype"], *versions])))
    checkpoint = " ".join(filter(None, [f"`{run['checkpoint']['name']}`", run["checkpoint"]["digest"]]))
    rows = run["rows"]
    parts = [
        f"## {name}\n",
        f"{checkpoint}, on {'; '.join(machines)}; {run['date']}:\n\n```\n{run['command']}\n```\n",
        *_overview(rows),
        _legend(rows),
    ]
    plain = [row for row in rows if _budget(row) is None]  # `none` and `blind`, which are in each table
    for budget in _budgets(rows) or [None]:
        parts += [f"### {name}: {budget} tokens\n"] if budget else []
        of_budget = [*plain, *(row for row in rows if budget and _budget(row) == budget)]
        parts.append(_table(of_budget, _varied(rows), _score))
        if shares := _table(of_budget, _varied(rows), _share):
            parts += ["What is kept of the gain over `blind`, in percent:\n", shares]
    return "\n".join(parts)


def changes(name: str, run: Results) -> str:
    """What other settings than the defaults change, paired, at each budget; "" where a run has none."""
    rows = [row for row in run["rows"] if any(figure.get("from_default") for figure in row["figures"])]
    found = [figure["from_default"] for row in rows for figure in row["figures"] if figure.get("from_default")]
    if not found:
        return ""
    above = sum(each["interval"][0] > 0 for each in found)
    below = sum(each["interval"][1] < 0 for each in found)
    by_chance = len(found) * (100 - LEVEL) / 200
    parts = [
        f"Of {len(found)} differences of {name}, the interval of {above} is above 0 and that of {below} below.",
        f"By chance {by_chance:.0f} would be on either side.\n",
    ]
    for budget in _budgets(rows):
        of_budget = [row for row in rows if _budget(row) == budget]
        parts += [f"### {name}: {budget} tokens, differences\n", _table(of_budget, _varied(run["rows"]), _change)]
    return "\n".join(parts)


def _table(rows: list[Row], others: list[str], show: Callable[[Figure], str | None]) -> str:
    """A row for each that has something to show, a column for each figure; "" where nothing is to be shown."""
    headings = list(dict.fromkeys(_heading(figure) for row in rows for figure in row["figures"]))
    lines = []
    for row in rows:
        found = {_heading(figure): show(figure) for figure in row["figures"]}
        if any(found.values()):
            lines.append([*_label(row, others), *(found.get(each) or ABSENT for each in headings)])
    label = ["method", "tokens", "kept", *(other.replace("_", " ") for other in others)]
    return markdown([*label, *headings], lines) if lines else ""


def _overview(rows: list[Row]) -> list[str]:
    """Which method at which budget: the mean share of a row, and how many of its figures differ from the reference."""
    others, budgets = _varied(rows), _budgets(rows)
    names = [name for row in rows for figure in row["figures"] for name in figure["compared"] if name not in BASELINES]
    cells: dict[tuple, dict[int, str]] = {}
    for row in rows:
        shares = [figure["share"]["value"] for figure in row["figures"] if figure["share"]]
        if not shares or _budget(row) is None:
            continue
        marks = [figure["compared"].get(name) for figure in row["figures"] for name in names[:1]]
        counts = [f"{marks.count(mark)}{mark}" for mark in "↑≈↓" if mark in marks]
        method, _, _, *more = _label(row, others)
        cells.setdefault((method, *more), {})[_budget(row)] = " ".join([f"{statistics.fmean(shares):.0f}", *counts])
    if not cells or len(budgets) < 2:
        return []
    heading = ["method", *(other.replace("_", " ") for other in others), *(f"{budget} tokens" for budget in budgets)]
    lines = [[*label, *(of_row.get(budget, ABSENT) for budget in budgets)] for label, of_row in cells.items()]
    says = "The mean of the shares kept of the gain over `blind`, (score - blind) / (unpruned - blind), in percent"
    if names:
        says += f"; beside it how many are better ↑ than `{names[0]}`, worse ↓, or not distinguishable ≈"
    return [f"{says}:\n", markdown(heading, lines)]


def _budget(row: Row) -> int | None:
    """The budget, of several that kept the same tokens the greatest; None where none is read."""
    asked = row["settings"]["visual_token_num"]
    return max(asked) if isinstance(asked, list) else asked


def _budgets(rows: list[Row]) -> list[int]:
    """The budgets, the greatest first."""
    return sorted({budget for row in rows if (budget := _budget(row)) is not None}, reverse=True)


def _varied(rows: list[Row]) -> list[str]:
    """The settings besides method, budget and seed that rows differ in, apart from where a method reads none."""
    names = dict.fromkeys(name for row in rows for name in row["settings"])
    hidden = ("visual_token_num", "pruning_method", "pruning_seed")
    values = {name: [row["settings"].get(name) for row in rows] for name in names if name not in hidden}
    return [name for name, own in values.items() if len({str(each) for each in own if each is not None}) > 1]


def _label(row: Row, others: list[str]) -> list[str]:
    settings, kept = row["settings"], [figure["kept"] for figure in row["figures"]]
    tokens = _budget(row)
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


def _change(figure: Figure) -> str | None:
    if (change := figure.get("from_default")) is None:
        return None
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(change["value"], *change["interval"])


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
