"""The scores that recipes left below OUT_DIR as one table: a row is a checkpoint or method, a budget and a ratio."""

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from llava.errors import InputError
from llava.eval.benchmarks import all_benchmarks
from llava.eval.benchmarks.base import Headline
from llava.eval.benchmarks.files import require_fields
from llava.eval.benchmarks.lmms_suites import SUITES
from llava.files import read_json_object
from llava.pruning.method import METHOD_NAMES, NONE, VISPRUNER, method_label
from llava.tables import printable

HEADLINES = {entry.name: entry.headlines for entry in (*all_benchmarks(), *SUITES)}
COLUMNS = [(name, headline) for name, headlines in HEADLINES.items() for headline in headlines]
# GQA's predictions are left out: its own scorer gives the score that is missing here.
SUBMISSIONS = {
    entry.name: entry.submission for entry in all_benchmarks() if (entry.submission or "").startswith("merge.")
}
ABSENT = "–"
BLIND = "blind"  # the method that shows no picture
DOWNSAMPLE = "downsample"  # no method: the pictures are smaller; `CHECKPOINT-downsample` is a row of lmms-eval's
MOST = 1e6  # no figure is as large
_FOLDER = re.compile(r"n_([1-9][0-9]{0,8}|all)(_[^/]*)?/r_[0-9]{1,9}(\.[0-9]{0,9})?", re.DOTALL)
_SEED = re.compile(r"_seed_[0-9]+")  # what a folder's name has of the seed, when it is not the default


@dataclass(frozen=True)
class Setting:
    """What a row of the table is about.

    `name` is the checkpoint's or, where methods are compared, the method's. `tokens` is how many were kept, as far as
    is known of an unpruned model (None). The ratio is as its folder spells it, "" for a method that has none. `suffix`
    is that of other settings than the defaults, such as `_per_image`, `seed` that of the seed; a row of several seeds
    has none. No part of what makes rows the same: the `checkpoint` and the `method`, and `asked`, the budget that the
    folder is named after, None where nothing was pruned or nothing shown.
    """

    name: str
    tokens: int | None
    ratio: str
    suffix: str = ""
    seed: str = ""
    checkpoint: str = field(default="", compare=False)
    method: str = field(default="", compare=False)
    asked: int | None = field(default=None, compare=False)

    @property
    def order(self) -> tuple:
        """Sorts by name, then from many tokens to few, then by ratio."""
        tokens = -math.inf if self.tokens is None else -self.tokens
        return self.name, tokens, float(self.ratio or 0), self.suffix, self.seed

    @property
    def cells(self) -> list[str]:
        """As the table shows it."""
        tokens = "all" if self.tokens is None else str(self.tokens)
        return [self.name, tokens + (self.suffix + self.seed).replace("_", " "), self.ratio or ABSENT]

    @property
    def budget(self) -> str:
        """The tokens and, if there is one, the ratio, in words."""
        return f"{self.cells[1]} tokens{self.ratio and f', ratio {self.ratio}'}"

    @property
    def is_unpruned(self) -> bool:
        """Whether the row is that of a model that sees all of the picture."""
        return self.asked is None and self.method != "" and not self.is_blind

    @property
    def is_blind(self) -> bool:
        """Whether the row is that of a model that sees no picture."""
        return self.tokens == 0

    def is_comparable(self, other: "Setting") -> bool:
        """Whether both rows have the same budget and suffix, and the same ratio as far as both have one.

        The budget is the same if as many tokens were asked for, or kept: a grid may keep 30 where 32 were asked for.
        """
        same_ratio = self.ratio == other.ratio or not (self.ratio and other.ratio)
        same_budget = self.tokens == other.tokens or (self.asked == other.asked and self.asked is not None)
        return same_budget and self.suffix == other.suffix and same_ratio


class Run(NamedTuple):
    """A folder of merged answers; `shown` is what it says of its questions and pictures, None where it says nothing."""

    benchmark: str
    split: str
    setting: Setting
    folder: Path
    shown: tuple[str | None, str | None]

    @property
    def asked(self) -> int | None:
        """The budget that the folder is named after; None where nothing was pruned or nothing shown."""
        return self.setting.asked

    def named(self, name: str) -> "Run":
        """This run, whose row has another name."""
        return self._replace(setting=replace(self.setting, name=name))


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
    """A figure of the run in `folder`; its interval (low, high) and how it compares, where these are known.

    `mark` compares it with the reference's; `alike` are the plain methods from which it cannot be told. Of several
    seeds the figure is the mean of those in `seeds`, and `folder` the first one's. `shown` is its run's.
    """

    value: float
    folder: Path
    interval: tuple[float, float] | None = None
    mark: str = ""
    alike: tuple[str, ...] = ()
    seeds: tuple["Cell", ...] = ()
    shown: tuple[str | None, str | None] = (None, None)

    @classmethod
    def of_seeds(cls, cells: Iterable["Cell"]) -> "Cell":
        """The cell of one or several seeds."""
        first, *others = cells
        if not others:
            return first
        return cls(statistics.fmean(cell.value for cell in (first, *others)), first.folder, seeds=(first, *others))

    @property
    def runs(self) -> tuple["Cell", ...]:
        """The cells of its seeds, or itself."""
        return self.seeds or (self,)

    @property
    def spread(self) -> float | None:
        """The standard deviation of the seeds' figures (of a sample, n - 1); None where there are not several."""
        return statistics.stdev(cell.value for cell in self.seeds) if self.seeds else None

    def __str__(self) -> str:
        """As the table shows it, with one decimal."""
        spread = "" if self.spread is None else f" ± {self.spread:.1f}"
        between = "" if self.interval is None else " [{:.1f}, {:.1f}]".format(*self.interval)
        marks = [*filter(None, [self.mark]), *(f"≈{name}" for name in self.alike)]
        return " ".join([f"{self.value:.1f}{spread}{between}", *marks])


class Share(NamedTuple):
    """What a row keeps of the gain of the unpruned model over one that sees no picture, in percent.

    `interval` (low, high) is that of the paired bootstrap, None where the questions' results are not known.
    """

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        return f"{self.value:.1f}" + ("" if self.interval is None else " [{:.1f}, {:.1f}]".format(*self.interval))


Table = dict[Setting, dict[Column, Cell]]
Shares = dict[Setting, dict[Column, Share]]


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
                run = read_run(benchmark, folder)
            except InputError as error:
                wrong.append(str(error))
            else:
                yield run


def read_run(benchmark: str, folder: Path) -> Run:
    """What a folder of answers, and what is noted in it, says of itself. Raises InputError for a note that is odd."""
    split, name, tokens, ratio = map(printable, folder.parts[-4:])
    tokens, *more = re.split("(?=_)", tokens.removeprefix("n_"))
    ratio = ratio.removeprefix("r_")
    method = _method_of(name, noted(folder, "settings", "pruning_method"))
    is_blind = method == BLIND or noted(folder, "run", "kept") == 0
    is_whole = tokens == "all" or method == NONE or is_blind
    asked = None if is_whole else int(tokens)
    is_read = noted(folder, "settings", "important_ratio", absent=ratio) is not None
    suffix = "".join(more)
    seed = "".join(_SEED.findall(suffix))
    setting = Setting(
        name,
        0 if is_blind else kept_tokens(folder, asked),
        ratio if is_read else "",
        _SEED.sub("", suffix),
        seed,
        name.removesuffix(f"-{method}"),
        method,
        asked,
    )
    if is_blind:  # all of whose budgets are the same
        setting = replace(setting, ratio="", suffix="")
    shown = noted(folder, "settings", "question_file"), noted(folder, "settings", "images")
    return Run(benchmark, split, setting, folder, shown)


def _method_of(name: str, noted: object) -> str:
    """The label of the method that a folder of this name is by: what its settings say, else what its name ends with."""
    if isinstance(noted, str):
        return method_label(noted)
    return next((known for known in (*METHOD_NAMES, BLIND, DOWNSAMPLE) if name.endswith(f"-{known}")), VISPRUNER)


def kept_tokens(folder: Path, asked: int | None) -> int | None:
    """How many visual tokens the answers of a folder were made with: what the run noted, else the budget.

    A mean that is no whole number, as where pictures differ in size, stands for its budget: it is another one for each
    benchmark. Raises InputError if what is noted is no such number.
    """
    kept = noted(folder, "run", "kept")
    if kept is None:
        return asked
    if type(kept) not in (int, float) or not 0 < kept < 10**9:
        raise InputError(f"{folder / 'merge.run.json'}: kept is {kept!r:.40}, not a number of visual tokens")
    return int(kept) if kept == int(kept) else asked


def noted(folder: Path, kind: str, name: str, absent=None):
    """What a file alongside the answers says under `name`; `absent` where it says nothing."""
    file = folder / f"merge.{kind}.json"
    return read_json_object(file, f"{kind} of the answers").get(name, absent) if file.is_file() else absent


def compare_methods(runs: list[Run], checkpoint: str, methods: list[str]) -> list[Run]:
    """The runs of one checkpoint by these methods, named after them."""
    folders = {checkpoint if name == VISPRUNER else f"{checkpoint}-{name}": name for name in methods}
    return [run.named(folders[run.setting.name]) for run in runs if run.setting.name in folders]


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
    rows = _rows_of_seeds({run.setting for run, _ in scored})
    settings = sorted(set(rows.values()), key=lambda row: (names.index(row.name), row.order))
    found_cells: dict[Setting, dict[Column, dict[str, Cell]]] = {setting: {} for setting in settings}
    for run, found in scored:
        split = run.split if len(splits[run.benchmark]) > 1 else ""
        for headline, value in found.items():
            seeds = found_cells[rows[run.setting]].setdefault(Column(run.benchmark, headline, split), {})
            cell = seeds.setdefault(run.setting.seed, Cell(value, run.folder, shown=run.shown))
            if cell.value != value:
                wrong.append(f"{run.folder} and {cell.folder} are the same row, with another {headline.heading}")
    table = {
        setting: {column: Cell.of_seeds(seeds.values()) for column, seeds in columns.items()}
        for setting, columns in found_cells.items()
    }
    return table, submissions, wrong


def _rows_of_seeds(settings: Iterable[Setting]) -> dict[Setting, Setting]:
    """The row of each setting: those that differ in the seed alone are one, without a seed."""
    settings = set(settings)
    without = {setting: replace(setting, seed="") for setting in settings}
    several = {row for row in without.values() if sum(other == row for other in without.values()) > 1}
    return {setting: row if row in several else setting for setting, row in without.items()}


def columns_of(table: Mapping[Any, Mapping[Column, Any]]) -> list[Column]:
    """The columns that have something in them, in the order of COLUMNS."""
    found = {column for cells in table.values() for column in cells}
    return sorted(found, key=lambda column: (COLUMNS.index(column[:2]), column.split))
