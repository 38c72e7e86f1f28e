"""A benchmark from questions to score and submission: what `python -m llava.eval` and `llava.eval.evaluate` share."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava.checkpoints.folders import get_model_name_from_path
from llava.errors import InputError
from llava.eval.answer_rows import empty_answers
from llava.eval.answering import answer_question_file
from llava.eval.answers import answer_line
from llava.eval.benchmarks import Benchmark, find_benchmark
from llava.eval.files import write_json
from llava.eval.items import write_items
from llava.eval.options import AskingOptions, ModelOptions, decoding
from llava.eval.questions import Question
from llava.pruning.method import NONE, VISPRUNER, method_label
from llava.pruning.settings import CROP, IMAGE, Settings

if TYPE_CHECKING:
    from llava.model.builder import LoadedModel

PLAYGROUND = Path(__file__).parents[2] / "playground"
BUNDLED_MODEL = PLAYGROUND / "checkpoints" / "llava-tiny"
BUNDLED_DATA = PLAYGROUND / "data" / "scenes"
DATA = PLAYGROUND / "data" / "eval"
PUBLISHED_VICUNA_MODE = "vicuna_v1"  # the template of the published figures, where the checkpoint's is llava_v1


@dataclass(frozen=True)
class Result:
    """What came of a benchmark.

    Attributes:
        benchmark: its name.
        score: the headline figure; None where labels are not public, or MME's categories are not there.
        metric, unit: what the figure is: its key in `scores`, and % or points.
        scores: everything that the scorer says, as in the score file; None without public labels.
        answers_file: the answers, in the order of the questions.
        submission: the file to submit; None where there is nothing to submit.
        description: the lines that the command prints.
    """

    benchmark: str
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


def evaluate(
    name: str,
    model: str | Path | LoadedModel,
    *,
    visual_token_num: int | None = None,
    important_ratio: float = 0.5,
    pruning_method: str = VISPRUNER,
    pruning_seed: int = 0,
    budget_per: str = CROP,
    data_dir: str | Path | None = None,
    out_dir: str | Path | None = None,
    conv_mode: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    temperature: float = 0,
    top_p: float | None = None,
    num_beams: int = 1,
    max_new_tokens: int | None = None,
) -> Result:
    """Answer a benchmark and score the answers, in this process.

    Args:
        name: one of `llava.eval.benchmarks.BENCHMARKS`.
        model: a checkpoint folder or hub id, what `load_pretrained_model` returned, or a LLaVA model alone.
        visual_token_num, important_ratio, pruning_method, pruning_seed, budget_per: see `Settings`.
        data_dir: the benchmarks' data; the bundled scenes for the bundled model, else playground/data/eval.
        out_dir: where answers go, in the folders of the recipes; a temporary folder if None. With a checkpoint's path a
            run goes on from the answers there; a model that is loaded already is always asked everything.
        conv_mode: the prompt template; the one of the published figures if None.
        batch_size, num_workers: see `AskingOptions`.
        temperature, top_p, num_beams: of decoding; a temperature of 0 is greedy.
        max_new_tokens: of an answer; the benchmark's own number if None.

    Raises InputError as the command does, and ValueError for impossible pruning settings.
    """
    benchmark = find_benchmark(name)
    if max_new_tokens is None:
        max_new_tokens = benchmark.max_new_tokens
    generation = decoding(temperature, top_p, num_beams, max_new_tokens)
    pruning = Settings(visual_token_num, important_ratio, pruning_method, pruning_seed, budget_per)
    source = ModelOptions(str(model), pruning=pruning) if isinstance(model, str | Path) else InMemory(model, pruning)
    data_dir = Path(data_dir or default_data_dir(source.model_path))
    out_dir = Path(out_dir or tempfile.mkdtemp(prefix="llava-eval-"))
    conv_mode = conv_mode or published_conv_mode(source.name, source.model_type, source.model_path)
    asking = AskingOptions(generation, conv_mode, batch_size, num_workers)
    benchmark.require_data(data_dir)
    answers_file = answers_path(benchmark, out_dir, source.name, pruning)
    questions = benchmark.read_questions(data_dir)
    answer_question_file(source, asking, questions, answers_file, overwrite=isinstance(source, InMemory))
    return finish(benchmark, data_dir, answers_file)


class InMemory:
    """A `ModelSource` of a model that is loaded already; its weights may be anyone's, so no answers are its own."""

    def __init__(self, model, pruning: Settings) -> None:
        """`model` is what `load_pretrained_model` returned, or a LLaVA model alone."""
        self.model, self.pruning = model, pruning
        bare = model[1] if isinstance(model, tuple) else model
        self.model_path = str(bare.config.name_or_path)
        self.name = get_model_name_from_path(self.model_path) or "model"
        self.model_type = bare.config.model_type

    def on(self, device: Callable[[str], str]) -> InMemory:
        return self

    def settings(self, asking: AskingOptions, questions: list[Question]) -> dict:
        return {"run": uuid.uuid4().hex}

    def load(self) -> LoadedModel:
        from llava.model.builder import LoadedModel, complete

        if isinstance(self.model, tuple):
            return LoadedModel(*self.model)
        if not self.model_path:
            raise InputError("config.name_or_path of the model is empty: give what load_pretrained_model returned")
        return complete(self.model)


def default_data_dir(model_path: str) -> Path:
    """The bundled scenes for the bundled model, for any other the folder of the real benchmarks."""
    path = Path(model_path)
    return BUNDLED_DATA if path.exists() and BUNDLED_MODEL.exists() and path.samefile(BUNDLED_MODEL) else DATA


def published_conv_mode(model_name: str, model_type: str | None, model_path: str) -> str:
    """The prompt template that a checkpoint's published figures were made with."""
    from llava.inference.templates import choose_conv_mode

    mode = choose_conv_mode(model_name, model_type, model_path=model_path)
    return PUBLISHED_VICUNA_MODE if mode == "llava_v1" else mode


def answers_path(benchmark: Benchmark, out_dir: Path, model_name: str, pruning: Settings) -> Path:
    """Where a benchmark's answers go: NAME/answers/SPLIT/MODEL[-METHOD]/n_TOKENS/r_RATIO/merge.jsonl.

    An unpruned model keeps all: its folder is n_all, whatever the budget. A budget for all crops of an image is
    n_TOKENS_per_image.
    """
    label = method_label(pruning.pruning_method)
    model = model_name if pruning.pruning_method == VISPRUNER else f"{model_name}-{label}"
    tokens = "all" if pruning.visual_token_num is None or pruning.pruning_method == NONE else pruning.visual_token_num
    if tokens != "all" and pruning.budget_per == IMAGE:
        tokens = f"{tokens}_per_image"
    folder = out_dir / benchmark.name / "answers" / benchmark.split / model / f"n_{tokens}"
    return folder / f"r_{pruning.important_ratio:g}" / "merge.jsonl"


def finish(benchmark: Benchmark, data_dir: Path, answers_file: Path) -> Result:
    """Score the answers and write the file to submit, as far as the benchmark has these.

    Raises InputError as the scorer and the converter do.
    """
    data, lines = data_dir / benchmark.folder, [f"answers: {answers_file}"]
    scores, submission, headline = None, None, benchmark.headlines[0]
    if benchmark.score is not None:
        scores, description, *items = benchmark.score(data, answers_file)
        if warning := empty_answers(answers_file):
            scores["warning"] = warning
            description += f"\nwarning: {warning}"
        score_file = answers_file.with_suffix(".score.json")
        write_json(score_file, scores)
        for of_figures in items:
            write_items(of_figures, score_file)
        lines += [description, f"score: {score_file}"]
    if benchmark.convert is not None:
        submission = answers_file.with_name(benchmark.submission)
        lines += [benchmark.convert(data, answers_file, submission), f"to submit: {submission}"]
    score = None if scores is None else scores[headline.key]
    return Result(
        benchmark.name, score, headline.key, headline.unit, scores, answers_file, submission, "\n".join(lines)
    )


def sample_scorer(
    benchmark: Benchmark, data_dir: Path
) -> Callable[[list[Question], list[list[str]]], list[dict[str, float]]] | None:
    """What scores several lists of answers to a sample of a benchmark's questions: the headline figures by heading.

    None where labels are not public or not sampled. It raises InputError as the benchmark's scorer does.
    """
    if benchmark.score is None or benchmark.sample is None:
        return None

    def score(questions: list[Question], answers: list[list[str]]) -> list[dict[str, float]]:
        figures = []
        with tempfile.TemporaryDirectory(prefix="llava-sample-") as folder:
            data, file = Path(folder) / "data", Path(folder) / "merge.jsonl"
            data.mkdir()
            benchmark.sample(data_dir / benchmark.folder, questions, data)
            for texts in answers:
                lines = (answer_line(question, text, "") for question, text in zip(questions, texts, strict=True))
                file.write_bytes("".join(lines).encode("utf-8", "backslashreplace"))
                scores = benchmark.score(data, file)[0]
                figures.append({headline.heading: scores[headline.key] for headline in benchmark.headlines})
        return [{name: value for name, value in row.items() if value is not None} for row in figures]

    return score
