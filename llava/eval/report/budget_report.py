"""The table of `budget` for people and programs: Markdown with what it shows, CSV, JSON, and a picture."""

from collections import Counter
from pathlib import Path

from llava.eval.report.budget_table import Budgets, Row
from llava.eval.report.plots import draw_budgets
from llava.eval.report.proportions import LEVEL, difference_by_chance, draws_needed, wilson_interval
from llava.eval.report.score_table import ABSENT
from llava.files import atomic_writer, write_json
from llava.tables import markdown_table, write_csv

MIB = 2**20


def markdown(budgets: Budgets) -> str:
    """What was asked, the table, and what it shows."""
    table = markdown_table(_table(budgets), left=0)
    return "\n\n".join([_asked(budgets), table, "\n".join(f"- {line}" for line in findings(budgets))]) + "\n"


def _asked(budgets: Budgets) -> str:
    about, answers = budgets.about, Counter(budgets.unpruned.answers)
    most = _percent(answers.most_common(1)[0][1] / len(budgets.questions))
    return (
        f"{about['model']}, {about['questions']} of {about['of']} questions (seed {about['seed']}) about "
        f"{about['pictures']} pictures, method {about['method']}, template {about['template']}, greedy answers of at "
        f"most {about['max_new_tokens']} tokens.\nTokens: kept of the {about['patches']} visual tokens of a crop. The "
        f"same: answers whose text is the unpruned model's. Its answers are {len(answers)} different texts; the most "
        f"frequent is {most} of them."
    )


def _table(budgets: Budgets) -> list[list[str]]:
    """The cells of the table, line by line."""
    has_ratio, names = any(row.ratio is not None for row in budgets.rows), list(budgets.unpruned.scores)
    head = ["tokens", "ratio", "the same", "agreement, %", "95 % interval", "prefill FLOPs, %", "KV cache, MiB", *names]
    lines = [head]
    for row in (budgets.unpruned, *budgets.rows):
        is_all, (low, high) = row is budgets.unpruned, row.interval
        agreement = [str(row.same), f"{100 * row.agreement:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]
        lines.append(
            [
                f"{row.tokens} (all)" if is_all else str(row.tokens),
                ABSENT if row.ratio is None else f"{row.ratio:g}",
                *([ABSENT] * 3 if is_all else agreement),
                f"{100 * row.prefill_share:.0f}",
                f"{row.cache_bytes / MIB:.3g}",
                *(f"{row.scores[name]:.1f}" for name in names),
            ]
        )
    return lines if has_ratio else [[line[0], *line[2:]] for line in lines]


def findings(budgets: Budgets) -> list[str]:
    """What the table shows of the wanted agreement, and what it cannot show, a sentence or two each."""
    wanted, number = _percent(budgets.wanted), len(budgets.questions)
    lines, found, sure = [], budgets.by_estimate, budgets.by_interval
    best = max(budgets.rows, key=lambda row: (row.agreement, -row.tokens))
    if found is None:
        lines.append(f"No budget of these reaches {wanted}. The highest agreement: {_describe(best)}.")
    else:
        lines.append(f"The smallest budget that reaches {wanted} by the point estimate: {_describe(found)}.")
        if dips := [row for row in budgets.rows if _is_dip(row, found, budgets.wanted)]:
            named = ", ".join(f"{row.tokens} tokens ({_percent(row.agreement)})" for row in dips)
            lines.append(f"Larger budgets that do not reach it, with the same method and ratio: {named}.")
    if sure is not None:
        lines.append(f"The smallest budget whose interval's lower end reaches {wanted}: {_describe(sure)}.")
    else:
        lines.append(f"No interval's lower end reaches {wanted}. {_what_it_takes(budgets)}".rstrip())
    if told := _ratios_told_apart(budgets, found or best):
        lines.append(told)
    lines.append(
        f"The interval is Wilson's, which takes the {number} questions for independent; questions about one picture "
        f"are not quite. What is named is the best of {len(budgets.rows)} in this sample, so that it looks a little "
        "better than it is"
        + (": another --seed draws a sample to check it by." if number < budgets.about["of"] else ".")
    )
    if (empty := budgets.unpruned.answers.count("")) > number / 2:
        lines.append(f"{empty} of the unpruned answers are empty: the checkpoint or its prompt template may be broken.")
    return lines


def _what_it_takes(budgets: Budgets) -> str:
    """How many questions would show the wanted agreement."""
    wanted, number = budgets.wanted, len(budgets.questions)
    least = draws_needed(1.0, wanted)
    if least is None:
        return "No number of questions shows that all answers stay the same."
    says = []
    if number < least:
        most = _percent(wilson_interval(number, number)[0])
        says.append(
            f"{number} questions cannot show it: with every answer the same, the lower end is {most}. "
            f"It takes {least:,} questions, all answered the same."
        )
    found = budgets.by_estimate
    if found is not None and wanted < found.agreement < 1:
        needed = f"{draws_needed(found.agreement, wanted):,}"
        says.append(
            f"If the agreement of {found.tokens} tokens stays at {_percent(found.agreement)}, about {needed} questions "
            "show it."
        )
    return " ".join(says)


def _ratios_told_apart(budgets: Budgets, row: Row) -> str | None:
    """Whether other ratios at the budget of a row are worse by more than chance; None if there are none."""
    others = [other for other in budgets.rows if other.tokens == row.tokens and other.ratio != row.ratio]
    if not others:
        return None
    unpruned = budgets.unpruned.answers
    told = []
    for other in others:
        pairs = [(a == whole, b == whole) for a, b, whole in zip(row.answers, other.answers, unpruned, strict=True)]
        if difference_by_chance(pairs.count((True, False)), pairs.count((False, True))) < 1 - LEVEL:
            told.append(f"{other.ratio:g}")
    ratios = ", ".join(f"{other.ratio:g}" for other in others)
    says = f"tells {' and '.join(told) or 'none'} apart from {row.ratio:g}"
    return f"Of the other ratios at {row.tokens} tokens ({ratios}), this sample {says} (McNemar's test, 5 %)."


def _is_dip(row: Row, found: Row, wanted: float) -> bool:
    return row.ratio == found.ratio and row.tokens > found.tokens and row.agreement < wanted


def _describe(row: Row) -> str:
    low, high = row.interval
    ratio = "" if row.ratio is None else f", ratio {row.ratio:g}"
    return (
        f"{row.tokens} tokens{ratio}, {row.same} of {len(row.answers)} answers the same, {_percent(row.agreement)} "
        f"({100 * low:.1f} to {100 * high:.1f})"
    )


def _percent(share: float) -> str:
    """A share with one decimal or, where that would round it up to all, as many as it takes."""
    decimals = 1
    while share < 1 and round(100 * share, decimals) >= 100 and decimals < 6:
        decimals += 1
    return f"{100 * share:.{decimals}f} %"


def as_data(budgets: Budgets) -> dict:
    """Everything, as JSON holds it; the answers are in the order of the questions."""

    def data(row: Row) -> dict:
        low, high = row.interval
        return {
            "visual_token_num": row.tokens,
            "important_ratio": row.ratio,
            "same": row.same,
            "agreement": row.agreement,
            "low": low,
            "high": high,
            "visual_tokens": row.visual_tokens,
            "prefill_share": row.prefill_share,
            "cache_bytes": row.cache_bytes,
            "scores": row.scores,
            "answers": row.answers,
        }

    def setting(row: Row | None) -> dict | None:
        return None if row is None else {"visual_token_num": row.tokens, "important_ratio": row.ratio}

    return {
        **budgets.about,
        "agreement_wanted": budgets.wanted,
        "reached_by_estimate": setting(budgets.by_estimate),
        "reached_by_interval": setting(budgets.by_interval),
        "questions_needed_at_least": draws_needed(1.0, budgets.wanted),
        "question_ids": [question.question_id for question in budgets.questions],
        "unpruned": data(budgets.unpruned),
        "rows": [data(row) for row in budgets.rows],
    }


def write_files(budgets: Budgets, folder: Path) -> None:
    """Write budget.md, .csv, .json and, with matplotlib, .png. Raises InputError if one cannot be written."""
    with atomic_writer(folder / "budget.md") as file:
        file.write(markdown(budgets))
    values = as_data(budgets)
    write_json(folder / "budget.json", values, sort_keys=False)
    names = list(budgets.unpruned.scores)
    columns = [name for name in values["unpruned"] if name not in ("scores", "answers")]
    rows = [
        [row[name] for name in columns] + [row["scores"].get(name) for name in names]
        for row in (values["unpruned"], *values["rows"])
    ]
    write_csv(folder / "budget.csv", [*columns, *names], rows)
    draw_budgets(budgets, folder / "budget.png")
