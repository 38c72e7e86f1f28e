"""The benchmarks, one entry each: what is read, how it is asked, how answers are scored, what is submitted.

A new benchmark is a new entry of BENCHMARKS; nothing else names it. EVAL.md says where the data comes from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llava.errors import InputError
from llava.eval import (
    eval_gqa,
    eval_mmbench,
    eval_mme,
    eval_pope,
    eval_science_qa,
    eval_seed,
    eval_textvqa,
    samples,
    submission,
)
from llava.eval.items import Items
from llava.eval.questions import Question, read_mmbench_questions, read_question_file, read_science_questions
from llava.eval.scoring import describe_accuracy

# The scores, their description and, where the scorer tells it, what each question gave: the items of its figures.
Scores = tuple[dict, str] | tuple[dict, str, dict[str, Items]]


class MissingData(InputError):
    """A benchmark's questions, pictures or labels are not there."""


@dataclass(frozen=True)
class Headline:
    """A figure that stands for a benchmark: its heading in a table, its key in the score file, and its unit."""

    heading: str
    key: str = "accuracy"
    unit: str = "%"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. All paths are relative to its folder below DATA_DIR, which `data` is below.

    Attributes:
        name: as its recipe is called.
        folder: below DATA_DIR.
        questions: the question file; its name without ending is the split, which answers are filed under.
        headlines: the figures that stand for it.
        images: the folder of its pictures; None where they are in the question file.
        labels: what else must be there.
        read: (question file, folder of pictures) -> questions.
        score: (data, answer file) -> `Scores`; None where labels are not public.
        convert: (data, answer file, file to submit) -> a line about it; None where there is nothing to submit.
        submission: the name of the file to submit, beside answers named merge.jsonl.
        by_products: what else `score` writes beside the answers, by the endings that take the place of `.jsonl`.
        max_new_tokens: of an answer.
        sample: writes the labels of a sample of its questions, see `samples`; None where there is none.
    """

    name: str
    folder: str
    questions: str
    headlines: tuple[Headline, ...]
    images: str | None = None
    labels: tuple[str, ...] = ()
    read: Callable[[Path, Path | None], list[Question]] = read_question_file
    score: Callable[[Path, Path], Scores] | None = None
    convert: Callable[[Path, Path, Path], str] | None = None
    submission: str | None = None
    by_products: tuple[str, ...] = ()
    max_new_tokens: int = 128
    sample: samples.Sampler | None = None

    @property
    def split(self) -> str:
        """The folder of its answers."""
        return Path(self.questions).stem

    def require_data(self, data_dir: Path) -> None:
        """Raise MissingData if something that answers and scores are made of is not there."""
        for name in (self.questions, *([] if self.images is None else [self.images]), *self.labels):
            if not (path := data_dir / self.folder / name).exists():
                raise MissingData(f"{path} is missing: see EVAL.md for where to get it")

    def read_questions(self, data_dir: Path) -> list[Question]:
        """Its questions. Raises InputError if a file is not of its form."""
        data = data_dir / self.folder
        return self.read(data / self.questions, None if self.images is None else data / self.images)


def _accuracy(
    evaluate: Callable[[Path, Path], tuple[dict, dict[str, Items]]], labels: str
) -> Callable[[Path, Path], Scores]:
    """The scorer of a benchmark with one file of labels."""

    def score(data: Path, answers: Path) -> Scores:
        scores, items = evaluate(data / labels, answers)
        return scores, describe_accuracy(scores), items

    return score


def _score_pope(data: Path, answers: Path) -> Scores:
    scores, items = eval_pope.evaluate(data / "coco", data / "llava_pope_test.jsonl", answers)
    return scores, eval_pope.describe(scores), items


def _score_mme(data: Path, answers: Path) -> Scores:
    scores, items = eval_mme.evaluate(data / "MME_Benchmark_release_version", answers)
    return scores, eval_mme.describe(scores), items


def _score_science_qa(data: Path, answers: Path) -> Scores:
    scores, read, items = eval_science_qa.evaluate(data, answers)
    output, result = answers.with_suffix(".output.json"), answers.with_suffix(".result.json")
    eval_science_qa.write_results(scores, read, tuple("ABCDE"), output, result)
    return scores, eval_science_qa.describe(scores, read), items


def _mmbench(name: str, heading: str, table: str, language: str) -> Benchmark:
    return Benchmark(
        name=name,
        folder="mmbench",
        questions=table,
        headlines=(Headline(heading),),
        read=lambda file, _: read_mmbench_questions(file, single_pred_prompt=True, lang=language),
        score=_accuracy(eval_mmbench.evaluate, table),
        convert=lambda data, answers, upload: submission.convert_mmbench(data / table, answers, upload),
        submission="merge.xlsx",
        max_new_tokens=1024,
        sample=samples.sample_mmbench(table),
    )


BENCHMARKS = (
    Benchmark(
        name="vqav2",
        folder="vqav2",
        questions="llava_vqav2_mscoco_test-dev2015.jsonl",
        headlines=(Headline("VQAv2"),),
        images="test2015",
        labels=("llava_vqav2_mscoco_test2015.jsonl",),
        convert=lambda data, answers, upload: submission.convert_vqav2(
            data / "llava_vqav2_mscoco_test2015.jsonl", answers, upload
        ),
        submission="merge.upload.json",
    ),
    Benchmark(
        name="gqa",
        folder="gqa",
        questions="llava_gqa_testdev_balanced.jsonl",
        headlines=(Headline("GQA"),),
        images="data/images",
        labels=("data/questions/testdev_balanced_questions.json",),
        score=_accuracy(eval_gqa.evaluate, "data/questions/testdev_balanced_questions.json"),
        convert=lambda _, answers, upload: submission.convert_gqa(answers, upload),
        submission="testdev_balanced_predictions.json",
        sample=samples.sample_json("data/questions/testdev_balanced_questions.json", samples.keep_gqa),
    ),
    Benchmark(
        name="vizwiz",
        folder="vizwiz",
        questions="llava_test.jsonl",
        headlines=(Headline("VizWiz"),),
        images="test",
        convert=lambda data, answers, upload: submission.convert_vizwiz(data / "llava_test.jsonl", answers, upload),
        submission="merge.upload.json",
    ),
    Benchmark(
        name="sqa",
        folder="scienceqa",
        questions="llava_test_CQM-A.json",
        headlines=(Headline("SQA-I", "image_accuracy"),),
        images="images/test",
        labels=("problems.json", "pid_splits.json"),
        read=partial(read_science_questions, single_pred_prompt=True),
        score=_score_science_qa,
        by_products=(".output.json", ".result.json"),
        max_new_tokens=1024,
        sample=samples.sample_science_qa,
    ),
    Benchmark(
        name="textvqa",
        folder="textvqa",
        questions="llava_textvqa_val_v051_ocr.jsonl",
        headlines=(Headline("TextVQA"),),
        images="train_images",
        labels=("TextVQA_0.5.1_val.json",),
        score=_accuracy(eval_textvqa.evaluate, "TextVQA_0.5.1_val.json"),
        sample=samples.sample_json("TextVQA_0.5.1_val.json", samples.keep_textvqa),
    ),
    Benchmark(
        name="pope",
        folder="pope",
        questions="llava_pope_test.jsonl",
        headlines=(Headline("POPE F1", "mean_f1"),),
        images="val2014",
        labels=("coco",),
        score=_score_pope,
        sample=samples.sample_pope,
    ),
    Benchmark(
        name="mme",
        folder="MME",
        questions="llava_mme.jsonl",
        headlines=(Headline("MME-P", "perception", "points"), Headline("MME-C", "cognition", "points")),
        images="MME_Benchmark_release_version",
        score=_score_mme,
        sample=samples.sample_mme,
    ),
    _mmbench("mmbench", "MMB", "mmbench_dev_20230712.tsv", "en"),
    _mmbench("mmbench_cn", "MMB-CN", "mmbench_dev_cn_20231003.tsv", "cn"),
    Benchmark(
        name="mmvet",
        folder="mm-vet",
        questions="llava-mm-vet.jsonl",
        headlines=(Headline("MM-Vet"),),
        images="images",
        convert=lambda _, answers, upload: submission.convert_mmvet(answers, upload),
        submission="merge.upload.json",
        max_new_tokens=1024,
    ),
    Benchmark(
        name="seed",
        folder="seed_bench",
        questions="llava-seed-bench.jsonl",
        headlines=(Headline("SEED"),),
        images=".",
        labels=("SEED-Bench.json",),
        score=_accuracy(eval_seed.evaluate, "SEED-Bench.json"),
        convert=lambda data, answers, upload: submission.convert_seed(data / "SEED-Bench.json", answers, upload),
        submission="merge.upload.jsonl",
        sample=samples.sample_json("SEED-Bench.json", samples.keep_seed),
    ),
)


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises InputError if there is none."""
    for benchmark in BENCHMARKS:
        if benchmark.name == name:
            return benchmark
    raise InputError(f"there is no benchmark {name!r}, only {', '.join(entry.name for entry in BENCHMARKS)}")


def made_of(answers_file: Path) -> set[Path]:
    """The files that benchmarks make of an answer file, there or not: misleading once the answers are others."""
    endings = {
        ".score.json",
        ".items.json",
        ".run.json",
        *(ending for entry in BENCHMARKS for ending in entry.by_products),
    }
    names = {entry.submission for entry in BENCHMARKS if entry.submission is not None}
    endings |= {name.removeprefix("merge") for name in names if name.startswith("merge.")}
    files = {answers_file.with_suffix(ending) for ending in endings}
    if answers_file.name == "merge.jsonl":
        files |= {answers_file.with_name(name) for name in names}
    return files
