"""The table of what lmms-eval answered and scored: python -m llava.eval.lmms_eval FOLDER [options of the table]

FOLDER is what `--output_path` of runs with `--log_samples` was, or a folder above several such. The samples of each run
of `llava_vispruner` or `pruned_hf` become a score file and its items, in folders of the recipes' layout, of which
`llava.eval.report.summary` makes the table: the same intervals, marks and baselines. That command's options follow,
such as --checkpoint NAME --methods vispruner divprune.

All runs of a task must be about the same documents: each has every number once, with the same question and target as in
every other run, and the same pictures as far as these are known.
"""

import json
import re
import sys
from argparse import ArgumentTypeError
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from llava.checkpoints.folders import get_model_name_from_path
from llava.cli import CommandParser, run_command
from llava.errors import InputError
from llava.eval.benchmarks.files import read_jsonl, require_fields
from llava.eval.benchmarks.items import items_file, make_items, write_items
from llava.eval.benchmarks.lmms_suites import BY_TASK, Figure, Share, Suite
from llava.eval.benchmarks.scoring import mismatches
from llava.eval.evaluation import answers_path
from llava.eval.report import summary
from llava.eval.report.score_table import ABSENT
from llava.eval.run.settings import heeded
from llava.eval.run.stamps import digest_texts
from llava.files import read_json, read_json_object, remove_file, write_json
from llava.pruning.settings import NAMES, Settings, parser_of
from llava.tables import markdown_table, printable

MODELS = ("llava_vispruner", "pruned_hf")
PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "published.json"
DOWNSAMPLE = "downsample"  # the argument of `pruned_hf`, and its row in tables
UNFINISHED = ".part"  # ends the name of a folder that a run still writes
_DOCUMENT = ("input", "target", "doc_hash")
_NEAR = 1e-6  # of a percent: lmms-eval adds in another order


@dataclass(frozen=True)
class Pruned:
    """How the visual tokens of a run were pruned.

    Attributes:
        settings: with the number of visual tokens or, where that is a share, its numerator.
        unit: what the names of folders add to that number: `_of_100` for a share of 0.25, which is 25 of 100.
        is_downsampled: whether pictures were made smaller to that number, and nothing was pruned.
    """

    settings: Settings
    unit: str = ""
    is_downsampled: bool = False

    @property
    def heeded(self) -> dict[str, Any]:
        """What of it decided the answers, as files of settings have it."""
        of_row = {"pruning_method": DOWNSAMPLE, "important_ratio": None} if self.is_downsampled else {}
        return heeded(self.settings) | of_row

    @classmethod
    def read(cls, options: dict[str, str]) -> "Pruned":
        """From texts by the names of the settings, or of `downsample`.

        Raises InputError, naming the setting, for an invalid one.
        """
        values: dict[str, Any] = dict(options)
        is_downsampled = DOWNSAMPLE in values
        if is_downsampled:
            values = {"visual_token_num": values[DOWNSAMPLE]}
        number, unit = values.get("visual_token_num", ""), ""
        if re.fullmatch(r"[01]?\.[0-9]{1,6}", number) and 0 < Decimal(number) <= 1:
            places = max(2, -Decimal(number).normalize().as_tuple().exponent)
            values["visual_token_num"], unit = str(int(Decimal(number).scaleb(places))), f"_of_{10**places}"
        for name, text in values.items():
            try:
                values[name] = parser_of(name)(text)
            except ArgumentTypeError as error:
                raise InputError(f"{name}: {error}") from error
        try:
            return cls(Settings(**values), unit, is_downsampled)
        except ValueError as error:
            raise InputError(str(error)) from error

    def file(self, suite: Suite, task: str, out_dir: Path, checkpoint: str) -> Path:
        """Where the answers to a task belong; see `answers_path`."""
        checkpoint += f"-{DOWNSAMPLE}" * self.is_downsampled
        file = answers_path(suite.split(task), out_dir, checkpoint, self.settings)
        if not self.unit or not self.settings.prunes:
            return file
        number, ratio = file.parts[-3:-1]
        own = f"n_{self.settings.visual_token_num}"
        return file.parents[2] / number.replace(own, own + self.unit, 1) / ratio / file.name


@dataclass(frozen=True)
class Log:
    """What one run of lmms-eval left of one task.

    Attributes:
        results: its file of results.
        model, arguments: of lmms-eval's model; the arguments without those that are settings of pruning.
        documents: a digest of each document in the order of their numbers, as far as samples say what it is: the
            question and the target, since lmms-eval's own hash is the same for all.
        pictures: the digest of each document's pictures; None where the model has not noted it.
        shares: what each document gives to a figure, by the figure's key.
    """

    results: Path
    suite: Suite
    task: str
    model: str
    arguments: dict[str, str]
    pruned: Pruned
    documents: list[str]
    pictures: list[str | None]
    shares: dict[str, list[Share]]

    @property
    def checkpoint(self) -> str:
        return get_model_name_from_path(self.arguments.get("pretrained", ""))

    @property
    def made_by(self) -> tuple:
        """What decided the answers, as far as it is known."""
        return self.model, self.arguments, self.pruned.heeded, len(self.documents)

    def file(self, out_dir: Path) -> Path:
        return self.pruned.file(self.suite, self.task, out_dir, self.checkpoint)


def read_logs(folder: Path) -> tuple[list[Log], list[str]]:
    """The newest log of each task, model and settings below a folder, and a line for what is there but not read.

    Raises InputError, naming the file, if one cannot be read, if samples are missing, twice there, or do not give
    lmms-eval's figures, if two runs would be the same row of a table though their models' arguments differ, and if runs
    of a task are not about the same documents.
    """
    found: dict[Path, Log] = {}
    ignored: dict[str, None] = {}
    files = [
        file
        for file in folder.rglob("*_results.json")
        if not any(part.endswith(UNFINISHED) for part in file.relative_to(folder).parts)
    ]
    for results in sorted(files, key=lambda file: (file.name, file)):  # the names begin with the time
        for log in _read_results(results, ignored):
            other = found.get(place := log.file(Path()))
            if other is not None and other.made_by != log.made_by:
                raise InputError(
                    f"{other.results} and {results} are of the same checkpoint and budget, but differ in the models' "
                    f"arguments or the number of documents of {log.task}: put them into different folders"
                )
            found[place] = log
    if not found:
        raise InputError("; ".join([f"no samples of lmms-eval that can be read below {folder}", *ignored]))
    _require_same_documents(found.values())
    return list(found.values()), list(ignored)


def _read_results(results: Path, ignored: dict[str, None]) -> Iterator[Log]:
    """The logs of a run; what of it cannot be in the table is noted in `ignored`."""
    values, where = read_json_object(results, "results"), f"results {results}"
    require_fields(values, ["config", "results", "n-samples"], where)
    config = values["config"]
    require_fields(config, ["model", "model_args"], f"{where}, config")
    if config["model"] not in MODELS:
        ignored.setdefault(f"not read, of the model {config['model']}: {results}")
        return
    given = config["model_args"] or ""
    pairs = (
        given.items() if isinstance(given, dict) else (part.split("=", 1) for part in given.split(",") if "=" in part)
    )
    arguments = {str(name): str(value) for name, value in pairs}
    require_fields(arguments, ["pretrained"], f"{where}, model_args")
    settings = {name: arguments.pop(name) for name in (*NAMES, DOWNSAMPLE) if name in arguments}
    try:
        pruned = Pruned.read({name: text for name, text in settings.items() if text != "None"})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    for task, numbers in values["n-samples"].items():
        suite = BY_TASK.get(task)
        if suite is None:
            ignored.setdefault(f"not read, no task of a known set: {task}")
            continue
        require_fields(numbers, ["effective"], f"{where}, n-samples of {task}")
        samples = results.with_name(f"{results.name.removesuffix('_results.json')}_samples_{task}.jsonl")
        rows = _read_samples(samples, int(numbers["effective"]))
        shares = {figure.headline.key: _shares(figure, rows, samples) for figure in suite.figures}
        for figure in suite.figures:
            _require_total(figure, shares[figure.headline.key], values["results"].get(task, {}), samples)
        documents = [digest_texts(json.dumps(row[name], sort_keys=True) for name in _DOCUMENT) for row in rows]
        pictures = [_picture(row) for row in rows]
        yield Log(results, suite, task, config["model"], arguments, pruned, documents, pictures, shares)


def _read_samples(file: Path, number: int) -> list[dict]:
    """The samples of documents 0 to number - 1, in that order. Raises InputError if one is missing or twice there."""
    rows = read_jsonl(file, "samples", ["doc_id", *_DOCUMENT])
    missing, surplus, unknown = mismatches((row["doc_id"] for row in rows), range(number))
    for keys, says in ((missing, "lack"), (surplus, "have more than once"), (unknown, "have, beyond those")):
        if keys:
            raise InputError(f"samples {file}, of {number} documents, {says} document {keys[0]} ({len(keys)} in all)")
    return sorted(rows, key=lambda row: row["doc_id"])


def _shares(figure: Figure, rows: list[dict], file: Path) -> list[Share]:
    """What each sample gives to a figure. Raises InputError, naming the document, for a value that is none."""
    shares = []
    for row in rows:
        try:
            shares.append(figure.share(row[figure.metric]))
        except (KeyError, TypeError, ValueError) as error:
            value = row.get(figure.metric)
            raise InputError(
                f"samples {file}, document {row['doc_id']}: {figure.metric} is {value!r:.60}, no value of that metric"
            ) from error
    return shares


def _require_total(figure: Figure, shares: list[Share], totals: dict, file: Path) -> None:
    """Raise InputError unless shares add up to the figure that lmms-eval has in its results."""
    total = next((value for name, value in totals.items() if name.split(",")[0] == figure.metric), None)
    own = make_items(_terms(shares, ["" for _ in shares])).figure
    if isinstance(total, bool) or not isinstance(total, int | float):
        raise InputError(f"the results beside {file} have no {figure.metric}, which its samples have")
    if abs(figure.of_total(total, len(shares)) - own) > _NEAR:
        raise InputError(
            f"samples {file} give {own:g} for {figure.metric}, the results beside them "
            f"{figure.of_total(total, len(shares)):g}: they are not of the same run"
        )


def _picture(row: dict) -> str | None:
    """The digest of a sample's pictures that the models here note beside the counts of tokens."""
    counts = row.get("token_counts") or [None]
    picture = counts[0].get("picture") if isinstance(counts[0], dict) else None
    return picture if isinstance(picture, str) else None


def _require_same_documents(logs: Iterable[Log]) -> None:
    """Raise InputError, naming two runs and a document, unless all runs of a task are about the same documents.

    A picture that one run has not noted is taken from another.
    """
    of_task: dict[str, list[Log]] = defaultdict(list)
    for log in logs:
        of_task[log.task].append(log)
    for task, (first, *others) in of_task.items():
        for log in others:
            if len(log.documents) != len(first.documents):
                sizes = f"{len(log.documents)} and {len(first.documents)} documents"
                raise InputError(f"{log.results} and {first.results} have {sizes} of {task}")
            for number, (one, two) in enumerate(zip(log.documents, first.documents)):
                pictures = log.pictures[number], first.pictures[number]
                if one != two or (None not in pictures and pictures[0] != pictures[1]):
                    what = "another question or target" if one != two else "another picture"
                    raise InputError(f"document {number} of {task} has {what} in {log.results} than in {first.results}")
                first.pictures[number] = first.pictures[number] or log.pictures[number]
        for log in others:
            log.pictures[:] = first.pictures


def _terms(shares: list[Share], pictures: list[str]) -> dict[str, list]:
    """The items of each term of a figure, from what each document gives."""
    terms = defaultdict(list)
    for number, ((term, part, whole), picture) in enumerate(zip(shares, pictures, strict=True)):
        terms[term].append((str(number), picture, part, whole))
    return terms


def convert(folder: Path) -> tuple[list[Log], list[str]]:
    """Write score files and items of all runs below a folder, into folders of the recipes' layout there.

    Those of an earlier call whose runs are gone are removed. Returns the logs, and lines on what was not read. Raises
    InputError as `read_logs` does, before anything is written, and if a file cannot be written.
    """
    logs, ignored = read_logs(folder)
    for suite in dict.fromkeys(BY_TASK.values()):
        for file in folder.glob(f"{suite.name}/answers/*/*/n_*/r_*/merge.settings.json"):
            score = file.with_name("merge.score.json")
            for stale in (score, items_file(score), file):
                remove_file(stale)
    for log in logs:
        pictures = [known or f"of {number}" for number, known in enumerate(log.pictures)]
        items = {key: make_items(_terms(shares, pictures)) for key, shares in log.shares.items()}
        score = log.file(folder).with_name("merge.score.json")
        figures = {key: of_figure.figure for key, of_figure in items.items()}
        write_json(score, {"samples": len(log.documents)} | figures)
        write_items(items, score)
        decided = log.pruned.heeded | {"model": log.model, "arguments": log.arguments}
        about = {"question_file": digest_texts(log.documents), "images": digest_texts(pictures)}
        write_json(score.with_name("merge.settings.json"), decided | about | {"made_from": str(log.results)})
    return logs, ignored


def published(suites: Iterable[Suite]) -> str:
    """What others published for these suites, as a Markdown table; "" for nothing."""
    records = read_json(PUBLISHED, "published results") if PUBLISHED.exists() else []
    names = {suite.short for suite in suites}
    columns = ("task", "model", "method", "kept", "score", "unit", "source")
    rows = [[record.get(name) for name in columns] for record in records if record.get("task") in names]
    lines = [[ABSENT if value is None else str(value) for value in row] for row in rows]
    if not lines:
        return ""
    says = "Published by others, not measured here; prompts and scoring may differ:"
    return f"\n{says}\n\n{markdown_table([columns, *lines], left=4)}\n"


def main() -> None:
    parser = CommandParser(description="The table of what lmms-eval answered, from its samples.", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="where lmms-eval's results and samples are")
    args, options = parser.parse_known_args()
    logs, ignored = convert(args.folder)
    sys.argv[1:] = ["--out-dir", str(args.folder), *options]
    summary.main()
    print(published(log.suite for log in logs), end="")
    for line in ignored:
        print(printable(line), file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
