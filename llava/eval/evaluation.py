"""Benchmarks from questions to scores and submissions: what `python -m llava.eval` and `llava.eval.evaluate` share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llava.errors import InputError
from llava.eval.benchmarks import find_benchmark
from llava.eval.benchmarks.base import Benchmark, MissingData
from llava.eval.benchmarks.items import items_file
from llava.eval.benchmarks.questions import Question
from llava.eval.benchmarks.scoring import save_scores
from llava.eval.run.answers import write_answers
from llava.eval.run.jobs import Jobs
from llava.eval.run.ranks import Ranks
from llava.eval.run.settings import heeded
from llava.eval.run.source import InMemory, ModelSource, OnDisk
from llava.files import require_writable
from llava.inference.options import AskingOptions, ModelOptions, decoding, pruning_grid
from llava.pruning.method import METHOD_NAMES, VISPRUNER, method_file, method_label
from llava.pruning.settings import Settings, takes_settings

if TYPE_CHECKING:
    from llava.model.builder import LoadedModel

PLAYGROUND = Path(__file__).parents[2] / "playground"
BUNDLED_MODEL = PLAYGROUND / "checkpoints" / "llava-tiny"
BUNDLED_DATA = PLAYGROUND / "data" / "scenes"
DATA = PLAYGROUND / "data" / "eval"


@dataclass(frozen=True)
class Result:
    """What came of a benchmark at one of the settings.

    Attributes:
        benchmark: its name.
        pruning: the settings.
        score: the headline figure; None where labels are not public, or MME's categories are not there.
        metric, unit: what the figure is: its key in `scores`, and % or points.
        scores: everything that the scorer says, as in the score file; None without public labels.
        answers_file: the answers, in the order of the questions.
        submission: the file to submit; None where there is nothing to submit.
        description: the lines that the command prints.
    """

    benchmark: str
    pruning: Settings
    score: float | None
    metric: str
    unit: str
    scores: dict | None
    answers_file: Path
    submission: Path | None
    description: str

    def __float__(self) -> float:
        if self.score is None:
            raise TypeError(f"{self.benchmark} has no local score: submit {self.submission}")
        return float(self.score)


@takes_settings
def evaluate(
    name: str | Iterable[str],
    model: str | Path | LoadedModel,
    *,
    data_dir: str | Path | None = None,
    out_dir: str | Path | None = None,
    conv_mode: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    temperature: float = 0,
    top_p: float | None = None,
    num_beams: int = 1,
    max_new_tokens: int | None = None,
    results: str | Path | None = None,
    **settings,
) -> Result | list[Result]:
    """Answer a benchmark, or several, and score the answers, in this process.

    Args:
        name: of a benchmark of `llava.eval.benchmarks`, or several names.
        model: a checkpoint folder or hub id, what `load_pretrained_model` returned, or a LLaVA model alone.
        data_dir: the benchmarks' data; the bundled scenes for the bundled model, else playground/data/eval.
        out_dir: where answers go, in the folders of the recipes; a temporary folder if None. With a checkpoint's path a
            run goes on from the answers there; a model that is loaded already is always asked everything.
        conv_mode: the prompt template; the one of the published figures if None.
        batch_size, num_workers: see `AskingOptions`.
        temperature, top_p, num_beams: of decoding; a temperature of 0 is greedy.
        max_new_tokens: of an answer; the benchmark's own number if None.
        results: a file for settings, machine, figures and intervals, as `report.results` describes it; none if None.
        settings: see `Settings`. Lists of values are asked in every combination; each picture is encoded once for all.

    Returns: the result; a list if there are several benchmarks or values, benchmark by benchmark.
    Raises: InputError as the command does, and for impossible settings.
    """
    benchmarks = [find_benchmark(each) for each in ([name] if isinstance(name, str) else name)]
    if not benchmarks or any(isinstance(value, list | tuple) and not value for value in settings.values()):
        raise InputError("there is nothing to evaluate: no benchmark, or a setting without a value")
    generation = decoding(temperature, top_p, num_beams, 1 if max_new_tokens is None else max_new_tokens)
    source = OnDisk(ModelOptions(str(model))) if isinstance(model, str | Path) else InMemory(model)
    run = Run(
        source,
        AskingOptions(generation, conv_mode, batch_size, num_workers),
        distinct(pruning_grid(settings)),
        Path(data_dir or default_data_dir(source.model_path)),
        Path(out_dir or tempfile.mkdtemp(prefix="llava-eval-")),
        max_new_tokens,
        overwrite=isinstance(source, InMemory),
    )
    if results is not None:
        require_writable(results)
    found = []
    for benchmark in benchmarks:
        for result in run.evaluate(benchmark).values():
            if isinstance(result, InputError):
                raise result
            found.append(result)
    if results is not None:
        save_results(Path(results), found, f"llava.eval.evaluate({name!r}, **{settings!r})", source.name)
    is_one = isinstance(name, str) and not any(isinstance(value, list | tuple) for value in settings.values())
    return found[0] if is_one else found


def save_results(file: Path, results: list[Result], command: str, checkpoint: str) -> None:
    """Write the results file of what was answered. Raises InputError as `write_results` does."""
    from llava.eval.report.results import Answered, write_results

    answered = [Answered(each.benchmark, each.answers_file.parent, each.pruning) for each in results]
    write_results(file, answered, command, checkpoint)


@dataclass(frozen=True)
class Run:
    """Benchmarks answered and scored at some settings, by a model that is loaded once.

    Attributes:
        source: the model.
        asking: how questions are asked; its number of new tokens counts if `max_new_tokens` is given.
        settings: see `distinct`.
        data_dir, out_dir: where the benchmarks' data is, and where answers go.
        max_new_tokens: of an answer; each benchmark's own number if None.
        overwrite: whether answers of other settings are dropped.
        ranks: this process among those of the run.
    """

    source: ModelSource
    asking: AskingOptions
    settings: list[Settings]
    data_dir: Path
    out_dir: Path
    max_new_tokens: int | None = None
    overwrite: bool = False
    ranks: Ranks = field(default_factory=Ranks)

    def evaluate(self, benchmark: Benchmark) -> dict[Settings, Result | InputError]:
        """The result at each of the settings, or why there is none; in other processes than the first nothing.

        Raises MissingData if the data is not there, and InputError as `Jobs.run` does.
        """
        missing = self.ranks.from_first(lambda: _missing_data(benchmark, self.data_dir))
        if missing is not None:
            raise MissingData(missing)
        questions = self._read(benchmark)
        files = {each: answers_path(benchmark, self.out_dir, self.source.name, each) for each in self.settings}
        self.ranks.from_first(
            lambda: require_writable(*(made for file in files.values() for made in made_of(file, benchmark)))
        )
        tokens = benchmark.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        generation = self.asking.generation | {"max_new_tokens": tokens}
        asking = replace(self.asking, generation=generation)
        errors = Jobs(self.source, asking, questions, files, self.ranks).run(self.overwrite)
        if self.ranks.rank > 0:
            return {}
        return {
            each: self._finish(benchmark, each, file) if error is None else InputError(error)
            for (each, file), error in zip(files.items(), errors, strict=True)
        }

    def _read(self, benchmark: Benchmark) -> list[Question]:
        """A benchmark's questions. Raises InputError in all processes if the first cannot read them."""
        read: list[list[Question]] = []
        self.ranks.from_first(lambda: read.append(benchmark.read_questions(self.data_dir)))
        return read[0] if read else benchmark.read_questions(self.data_dir)

    def _finish(self, benchmark: Benchmark, pruning: Settings, answers_file: Path) -> Result | InputError:
        try:
            return finish(benchmark, self.data_dir, answers_file, pruning)
        except InputError as error:
            return error


def _missing_data(benchmark: Benchmark, data_dir: Path) -> str | None:
    """What is not there of a benchmark's data. Raises InputError if a package is not there that it needs."""
    try:
        benchmark.require_data(data_dir)
    except MissingData as missing:
        return str(missing)
    benchmark.require_packages()
    return None


def distinct(settings: list[Settings]) -> list[Settings]:
    """The settings less those that differ from an earlier one only in what their method does not read.

    Raises InputError for different ones whose answers would be filed in the same folder.
    """
    if len(settings) == 1:
        return settings
    kept: dict[tuple, Settings] = {}
    for each in settings:
        kept.setdefault((*heeded(each).values(), method_file(each.pruning_method)), each)
    methods = dict.fromkeys(each.pruning_method for each in settings)
    for name in methods if len(methods) > 1 else ():
        label = method_label(name)
        if any(method_label(other) == label for other in methods if other != name) or (
            label in METHOD_NAMES and label != name
        ):
            raise InputError(f"{name}: another method is called {label}, and answers are filed under that")
    return list(kept.values())


def default_data_dir(model_path: str) -> Path:
    """The bundled scenes for the bundled model, for any other the folder of the real benchmarks."""
    path = Path(model_path)
    return BUNDLED_DATA if path.exists() and BUNDLED_MODEL.exists() and path.samefile(BUNDLED_MODEL) else DATA


def answers_path(benchmark: Benchmark, out_dir: Path, model_name: str, pruning: Settings) -> Path:
    """Where a benchmark's answers go: NAME/answers/SPLIT/MODEL[-METHOD]/n_TOKENS/r_RATIO/merge.jsonl.

    Where no budget is read, as of an unpruned model and one that is shown no picture, the folder is n_all. Settings
    that are not the default's follow the number, as in n_TOKENS_per_image.
    """
    label = method_label(pruning.pruning_method)
    model = model_name if pruning.pruning_method == VISPRUNER else f"{model_name}-{label}"
    tokens = f"{pruning.visual_token_num}{pruning.suffix}" if pruning.prunes else "all"
    folder = out_dir / benchmark.name / "answers" / benchmark.split / model / f"n_{tokens}"
    return folder / f"r_{pruning.important_ratio:g}" / "merge.jsonl"


def made_of(answers_file: Path, benchmark: Benchmark) -> list[Path]:
    """What a run writes of a benchmark: answers, scores and the file to submit, as far as it has these."""
    score_file = answers_file.with_suffix(".score.json")
    scores = [] if benchmark.score is None else [score_file, items_file(score_file)]
    submission = [] if benchmark.convert is None else [answers_file.with_name(benchmark.submission)]
    return [answers_file, answers_file.with_suffix(".run.json"), *scores, *submission]


def finish(benchmark: Benchmark, data_dir: Path, answers_file: Path, pruning: Settings) -> Result:
    """Score the answers and write the file to submit, as far as the benchmark has these.

    Raises InputError as the scorer and the converter do.
    """
    data, lines = data_dir / benchmark.folder, [f"answers: {answers_file}"]
    scores, submission, headline = None, None, benchmark.headlines[0]
    if benchmark.score is not None:
        score_file = answers_file.with_suffix(".score.json")
        scores, description, _ = save_scores(benchmark.score(data, answers_file, None), answers_file, score_file)
        lines += [description, f"score: {score_file}"]
    if benchmark.convert is not None:
        submission = answers_file.with_name(benchmark.submission)
        lines += [benchmark.convert(data, answers_file, submission), f"to submit: {submission}"]
    score = None if scores is None else scores[headline.key]
    return Result(
        benchmark.name, pruning, score, headline.key, headline.unit, scores, answers_file, submission, "\n".join(lines)
    )


def sample_scorer(
    benchmark: Benchmark, data_dir: Path
) -> Callable[[list[Question], list[list[str]]], list[dict[str, float]]] | None:
    """What scores several lists of answers to a sample of a benchmark's questions: the headline figures by heading.

    None where labels are not public. It raises InputError as the benchmark's scorer does.
    """
    if benchmark.score is None:
        return None

    def score(questions: list[Question], answers: list[list[str]]) -> list[dict[str, float]]:
        figures = []
        with tempfile.TemporaryDirectory(prefix="llava-sample-") as folder:
            file = Path(folder) / "merge.jsonl"
            for texts in answers:
                write_answers(file, questions, texts)
                scores = benchmark.score(data_dir / benchmark.folder, file, questions).scores
                figures.append({headline.heading: scores[headline.key] for headline in benchmark.headlines})
        return [{name: value for name, value in row.items() if value is not None} for row in figures]

    return score
