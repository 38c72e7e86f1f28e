"""The scores that recipes left below OUT_DIR as one table: a row is a checkpoint or method, a budget and a ratio."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llava.errors import InputError
from llava.eval.benchmarks import all_benchmarks
from llava.eval.benchmarks.base import Headline
from llava.eval.benchmarks.files import require_fields
from llava.eval.benchmarks.lmms_suites import SUITES
from llava.files import read_json_object
from llava.pruning.method import NONE, VISPRUNER
from llava.pruning.settings import IMAGE
from llava.tables import markdown_table, printable, write_csv

HEADLINES = {entry.name: entry.headlines for entry in (*all_benchmarks(), *SUITES)}
COLUMNS = [(name, headline) for name, headlines in HEADLINES.items() for headline in headlines]
# GQA's predictions are left out: its own scorer gives the score that is missing here.
SUBMISSIONS = {
    entry.name: entry.submission for entry in all_benchmarks() if (entry.submission or "").startswith("merge.")
}
ABSENT = "–"
MOST = 1e6  # no figure is as large
_FOLDER = re.compile(r"n_([1-9][0-9]{0,8}|all)(_[^/]*)?/r_[0-9]{1,9}(\.[0-9]{0,9})?", re.DOTALL)
NOTE = "MME in points, the others in percent. Tokens: visual tokens kept of a picture, in LLaVA-1.6 of each crop."
NOTE_PER_IMAGE = "Per image: of all crops of a picture together."


class Setting(NamedTuple):
    """What a row of the table is about.

    `name` is the checkpoint's or, where methods are compared, the method's. `tokens` is how many were kept, as far as
    is known of an unpruned model (None). The ratio is as its folder spells it, "" for a method that has none. `suffix`
    is that of other settings than the defaults, such as `_per_image`.
    """

    name: str
    tokens: int | None
    ratio: str
    suffix: str = ""

    @property
    def order(self) -> tuple:
        """Sorts by name, then from many tokens to few, then by ratio."""
        return self.name, -math.inf if self.tokens is None else -self.tokens, float(self.ratio or 0), self.suffix

    @property
    def cells(self) -> list[str]:
        """As the table shows it."""
        tokens = "all" if self.tokens is None else str(self.tokens)
        return [self.name, tokens + self.suffix.replace("_", " "), self.ratio or ABSENT]

    @property
    def budget(self) -> str:
        """The tokens and, if there is one, the ratio, in words."""
        return f"{self.cells[1]} tokens{self.ratio and f', ratio {self.ratio}'}"

    def is_comparable(self, other: "Setting") -> bool:
        """Whether both rows have the same budget, and the same ratio as far as both have one."""
        same_ratio = self.ratio == other.ratio or not (self.ratio and other.ratio)
        return (self.tokens, self.suffix) == (other.tokens, other.suffix) and same_ratio


class Run(NamedTuple):
    """A folder of merged answers. `asked` is the budget that it is named after, None where nothing was pruned."""

    benchmark: str
    split: str
    setting: Setting
    asked: int | None
    folder: Path


class Column(NamedTuple):
    """A headline; `split` is empty unless several splits of the benchmark were scored."""

    benchmark: str
    headline: Headline
    split: str

    def named(self, name: str) -> str:
        """`name`, with the split where there are several."""
        return f"{name} ({self.split})" if self.split else name

    @property
    def heading(self) -> str:
        return self.named(self.headline.heading)


class Cell(NamedTuple):
    """A figure of the run in `folder`; its interval (low, high) and how it compares, where these are known."""

    value: float
    folder: Path
    interval: tuple[float, float] | None = None
    mark: str = ""

    def __str__(self) -> str:
        """As the table shows it, with one decimal."""
        between = "" if self.interval is None else " [{:.1f}, {:.1f}]".format(*self.interval)
        return f"{self.value:.1f}{between}{' ' * bool(self.mark)}{self.mark}"


Table = dict[Setting, dict[Column, Cell]]


def find_runs(out_dir: Path, wrong: list[str]) -> Iterator[Run]:
    """The folders that the recipes made below `out_dir` and that hold merged answers, a score or a submission.

    What is wrong with those of which it cannot be read how they were made is added to `wrong`.
    """
    for benchmark in HEADLINES:
        names = ("merge.jsonl", "merge.score.json", SUBMISSIONS.get(benchmark, "merge.jsonl"))
        for folder in sorted(out_dir.glob(f"{benchmark}/answers/*/*/n_*/r_*")):
            done = any((folder / name).is_file() for name in names)
            if not done or not _FOLDER.fullmatch("/".join(folder.parts[-2:])):
                continue
            try:
                run = _read_run(benchmark, folder)
            except InputError as error:
                wrong.append(str(error))
            else:
                yield run


def _read_run(benchmark: str, folder: Path) -> Run:
    split, checkpoint, tokens, ratio = map(printable, folder.parts[-4:])
    tokens, *more = re.split("(?=_)", tokens.removeprefix("n_"))
    ratio = ratio.removeprefix("r_")
    is_whole = tokens == "all" or noted(folder, "settings", "pruning_method") == NONE
    asked = None if is_whole else int(tokens)
    is_read = noted(folder, "settings", "important_ratio", absent=ratio) is not None
    setting = Setting(checkpoint, kept_tokens(folder, asked), ratio if is_read else "", "".join(more))
    return Run(benchmark, split, setting, asked, folder)


def kept_tokens(folder: Path, asked: int | None) -> int | None:
    """How many visual tokens the answers of a folder were made with: what the run noted, else the budget.

    Raises InputError if that is no such number.
    """
    kept = noted(folder, "run", "kept")
    if kept is None:
        return asked
    if type(kept) is not int or not 0 < kept < 10**9:
        raise InputError(f"{folder / 'merge.run.json'}: kept is {kept!r:.40}, not a number of visual tokens")
    return kept


def noted(folder: Path, kind: str, name: str, absent=None):
    """What a file alongside the answers says under `name`; `absent` where it says nothing."""
    file = folder / f"merge.{kind}.json"
    return read_json_object(file, f"{kind} of the answers").get(name, absent) if file.is_file() else absent


def compare_methods(runs: list[Run], checkpoint: str, methods: list[str]) -> list[Run]:
    """The runs of one checkpoint by these methods, named after them."""
    folders = {checkpoint if name == VISPRUNER else f"{checkpoint}-{name}": name for name in methods}
    return [
        run._replace(setting=run.setting._replace(name=folders[run.setting.name]))
        for run in runs
        if run.setting.name in folders
    ]


def read_headlines(file: Path, benchmark: str) -> dict[Headline, float]:
    """A score file's headline figures, less those that it says do not exist (null).

    Raises InputError, naming the file, if it is not such a score file.
    """
    headlines = HEADLINES[benchmark]
    scores = read_json_object(file, "score file")
    require_fields(scores, [headline.key for headline in headlines], f"score file {file}")
    found = {headline: scores[headline.key] for headline in headlines if scores[headline.key] is not None}
    for headline, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
            raise InputError(f"score file {file}: {headline.key} is {value!r:.40}, not a number of points or percent")
    return found


def collect(runs: list[Run], names: list[str]) -> tuple[Table, list[tuple[Run, Path]], list[str]]:
    """The table, the submission files of runs that have no score, and what is wrong with the rest.

    Rows are in the order of `names`, and after that of the settings.
    """
    scored: list[tuple[Run, dict[Headline, float]]] = []
    submissions, wrong = [], []
    for run in runs:
        file = run.folder / "merge.score.json"
        submission = run.folder / SUBMISSIONS.get(run.benchmark, "")
        if submission.is_file() and not file.exists():
            submissions.append((run, submission))
            continue
        try:
            if not file.exists():
                raise InputError(f"no {file}: its answers are not scored")
            scored.append((run, read_headlines(file, run.benchmark)))
        except InputError as error:
            wrong.append(str(error))
    splits: dict[str, set[str]] = {}
    for run, _ in scored:
        splits.setdefault(run.benchmark, set()).add(run.split)
    settings = sorted({run.setting for run, _ in scored}, key=lambda row: (names.index(row.name), row.order))
    table: Table = {setting: {} for setting in settings}
    for run, found in scored:
        split = run.split if len(splits[run.benchmark]) > 1 else ""
        for headline, value in found.items():
            cell = table[run.setting].setdefault(Column(run.benchmark, headline, split), Cell(value, run.folder))
            if cell.value != value:
                wrong.append(f"{run.folder} and {cell.folder} are the same row, with another {headline.heading}")
    return table, submissions, wrong


def columns_of(table: Mapping[Any, Mapping[Column, Any]]) -> list[Column]:
    """The columns that have something in them, in the order of COLUMNS."""
    found = {column for cells in table.values() for column in cells}
    return sorted(found, key=lambda column: (COLUMNS.index(column[:2]), column.split))


def markdown(table: Table, submissions: list[tuple[Run, Path]], first: str, notes: list[str]) -> str:
    """The table with one decimal, its notes, and below it the submission files without a score.

    `first` is the heading of the first column.
    """
    columns = columns_of(table)
    parts = []
    if columns:
        lines = [[first, "tokens", "ratio", *(column.heading for column in columns)]]
        for setting, cells in table.items():
            lines.append([*setting.cells, *(str(cells.get(column, ABSENT)) for column in columns)])
        note = f"{NOTE} {NOTE_PER_IMAGE}" if any(f"_per_{IMAGE}" in setting.suffix for setting in table) else NOTE
        parts += [markdown_table(lines), "", note, *map(printable, notes)]
    if submissions:
        parts += [""] * bool(parts) + ["Without a local score, to be submitted:", ""]
        for run, file in sorted(submissions, key=lambda entry: entry[0].setting.order):
            parts.append(f"- {run.benchmark}, {run.setting.name}, {run.setting.budget}: `{printable(str(file))}`")
    return "\n".join(parts) + "\n"


def write_scores(table: Table, path: Path, first: str) -> None:
    """One row for each score, with up to four decimals, and the interval's ends where a score has one.

    Raises InputError if the file cannot be written.
    """
    bounds = any(cell.interval for cells in table.values() for cell in cells.values())
    rows = []
    for setting, cells in table.items():
        for column in filter(cells.__contains__, columns_of(table)):
            names = [*setting.cells, column.named(column.benchmark), column.headline.key]
            ends = [round(end, 4) for end in cells[column].interval or ()]
            rows.append([*names, round(cells[column].value, 4), *ends])
    header = [first, "tokens", "ratio", "benchmark", "metric", "value", *["low", "high"] * bounds]
    write_csv(path, header, rows)
