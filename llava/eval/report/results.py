"""One JSON file of a run: settings, versions, machine, command, figures and intervals; and the schema that checks it.

`python -m llava.eval ... --results FILE` writes it. The documents' tables are made of such files, see
`scripts.tables`.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict

from llava.errors import InputError
from llava.eval.benchmarks.rows import check
from llava.eval.report.score_table import Cell, Column, Setting, collect, columns_of, noted, read_run
from llava.eval.run.settings import heeded
from llava.files import atomic_writer, read_json
from llava.pruning.method import NONE
from llava.pruning.settings import Settings

FORM = "llava.eval 1"
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Value = str | int | Number | None
_STRICT = ConfigDict(extra="forbid")


def _ordered(ends: list[float]) -> list[float]:
    if ends[0] > ends[1]:
        raise ValueError("the lower end is the greater one")
    return ends


Interval = Annotated[list[Number], Field(min_length=2, max_length=2), AfterValidator(_ordered)]


class _Difference(TypedDict):
    """A figure less another's, and its 95 % interval."""

    __pydantic_config__ = _STRICT
    value: Number
    interval: Interval


class _Share(TypedDict):
    """What is kept of the unpruned model's gain over `blind`, in percent."""

    __pydantic_config__ = _STRICT
    value: Number
    interval: Interval | None


class Figure(TypedDict):
    """A figure of a benchmark at the settings of a row.

    `questions` were answered, with `kept` visual tokens of a picture (the mean; None where it is not known). Of several
    seeds `value` is the mean, and `seeds` has each one's. `from_unpruned` is the paired difference from the unpruned
    model; `compared` what can be said of other methods at the same budget: "↑" better than these, "↓" worse, "≈" not
    distinguishable, by the paired interval of the difference. `from_default` is the paired difference from the row of
    the same method and budget whose other settings are the defaults (None: this is it, or it is not there).
    """

    __pydantic_config__ = _STRICT
    benchmark: str
    split: str
    heading: str
    metric: str
    unit: Literal["%", "points"]
    value: Number
    interval: Interval | None
    seeds: list[Number]
    questions: Count
    kept: Number | None
    from_unpruned: _Difference | None
    from_default: NotRequired[_Difference | None]
    share: _Share | None
    compared: dict[str, Literal["↑", "↓", "≈"]]


class Row(TypedDict):
    """The figures at one setting; of several seeds, `pruning_seed` is a list."""

    __pydantic_config__ = _STRICT
    method: str
    settings: dict[str, Value | list[Value]]
    figures: Annotated[list[Figure], Field(min_length=1)]


class Machine(TypedDict):
    """On what answers were made, as far as they note it: of answers of an earlier release it is not known."""

    __pydantic_config__ = _STRICT
    device: str | None
    cores: Count | None
    dtype: str | None
    versions: dict[str, str]


class _Checkpoint(TypedDict):
    __pydantic_config__ = _STRICT
    name: str
    digest: str | None


class Results(TypedDict):
    """The file."""

    __pydantic_config__ = _STRICT
    form: Literal["llava.eval 1"]
    date: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    command: str
    checkpoint: _Checkpoint
    machines: Annotated[list[Machine], Field(min_length=1)]
    rows: Annotated[list[Row], Field(min_length=1)]


class Answered(NamedTuple):
    """The folder of a benchmark's answers, and the settings that they were made with."""

    benchmark: str
    folder: Path
    pruning: Settings


def write_results(file: Path, answered: Sequence[Answered], command: str, checkpoint: str) -> None:
    """Write the results of scored answers, with the uncertainty that the tables of scores have.

    Raises InputError if there are no scores, or they or the file cannot be read or written; what can be read is then
    written.
    """
    from llava.eval.report.intervals import add_intervals, choose_reference  # numpy

    settings = {each.folder: heeded(each.pruning) for each in answered}
    runs = [read_run(each.benchmark, each.folder) for each in answered]
    runs = [run.named(run.setting.method) for run in runs if (run.folder / "merge.score.json").is_file()]
    methods = sorted(dict.fromkeys(run.setting.method for run in runs), key=lambda name: name != NONE)
    table, _, wrong = collect(runs, methods)
    if not table:
        raise InputError("; ".join([f"{file} is not written: there are no scores", *wrong]))
    found = add_intervals(table, choose_reference(methods))
    compared: dict[tuple[Setting, Column], dict[str, str]] = {}
    for (rival, base), row in found.differences.items():
        for column, difference in row.items() if not (rival.is_unpruned or rival.is_blind) else ():
            compared.setdefault((rival, column), {})[base.method] = difference.mark
    differences = {
        name: {row: of_row for (row, _), of_row in getattr(found, name).items()}
        for name in ("from_unpruned", "from_default")
    }
    rows = []
    for setting, cells in found.table.items():
        figures = []
        for column in filter(cells.__contains__, columns_of(found.table)):
            figure = _figure(cells[column], column)
            for name, of_rows in differences.items():
                if difference := of_rows.get(setting, {}).get(column):
                    figure[name] = {"value": round(difference.value, 4), "interval": _ends(difference[1:], 4)}
            if share := found.shares.get(setting, {}).get(column):
                figure["share"] = {"value": round(share.value, 4), "interval": _ends(share.interval, 4)}
            figures.append(figure | {"compared": compared.get((setting, column), {})})
        own = [settings[run.folder] for cell in cells.values() for run in cell.runs]
        rows.append({"method": setting.method, "settings": _joined(own), "figures": figures})
    folders = [run.folder for run in runs]
    machines = []
    for machine in map(_machine, folders):
        machines += [] if machine in machines else [machine]
    noted_checkpoint = noted(folders[0], "settings", "checkpoint", absent="").rpartition(" ")[2]
    results = {
        "form": FORM,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "checkpoint": {"name": checkpoint, "digest": noted_checkpoint or None},
        "machines": machines,
        "rows": rows,
    }
    with atomic_writer(file) as output:
        output.write(text_of(check(results, Results, f"the results {file}")))
    if wrong := wrong + found.wrong:
        raise InputError("; ".join(wrong))


def text_of(results: Results) -> str:
    """The JSON of results, a figure a line, so that a change of one is a change of one line."""
    rows = []
    for row in results["rows"]:
        opened = json.dumps({**row, "figures": []}, ensure_ascii=False).removesuffix("]}")
        figures = [f"\n      {json.dumps(figure, ensure_ascii=False)}" for figure in row["figures"]]
        rows.append(f"\n    {opened}{','.join(figures)}\n    ]}}")
    opened = json.dumps({**results, "rows": []}, indent=2, ensure_ascii=False).removesuffix("]\n}")
    return f"{opened}{','.join(rows)}\n  ]\n}}\n"


def _figure(cell: Cell, column: Column) -> dict:
    kept = [noted(run.folder, "run", "mean_kept", absent=noted(run.folder, "run", "kept")) for run in cell.runs]
    with (cell.folder / "merge.jsonl").open("rb") as answers:
        questions = sum(1 for line in answers if line.strip())
    return {
        "benchmark": column.benchmark,
        "split": column.split,
        "heading": column.headline.heading,
        "metric": column.headline.key,
        "unit": column.headline.unit,
        "value": round(cell.value, 4),
        "interval": _ends(cell.interval, 4),
        "seeds": [round(each.value, 4) for each in cell.seeds],
        "questions": questions,
        "kept": None if None in kept else round(sum(kept) / len(kept), 2),
        "from_unpruned": None,
        "from_default": None,
        "share": None,
    }


def _ends(interval: tuple[float, float] | None, digits: int) -> list[float] | None:
    return None if interval is None else [round(end, digits) for end in interval]


def _joined(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings of runs that are one row: where they differ, as in the seed, each value in the runs' order."""
    values = {name: list(dict.fromkeys(each[name] for each in settings)) for name in settings[0]}
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _machine(folder: Path) -> dict:
    names = ("device", "cores", "dtype")
    return {name: noted(folder, "run", name) for name in names} | {"versions": noted(folder, "run", "versions") or {}}


def read_results(file: Path) -> Results:
    """The results in a file. Raises InputError, naming the field, if it is not of the schema."""
    where = f"the results {file}"
    results = check(read_json(file, "results"), Results, where)
    for number, row in enumerate(results["rows"]):
        for name in ("visual_token_num", "pruning_method"):
            if name not in row["settings"]:
                raise InputError(f"{where}: no rows[{number}].settings.{name}")
        asked = row["settings"]["visual_token_num"]
        several = asked if isinstance(asked, list) else [asked]
        if asked is not None and not (several and all(type(each) is int and each > 0 for each in several)):
            raise InputError(f"{where}: rows[{number}].settings.visual_token_num is {asked!r}, not a number of tokens")
    return results
