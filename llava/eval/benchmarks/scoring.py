"""What the scorers share: answers joined to labels by id, accuracies in percent, the score file."""

import argparse
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

from llava.cli import CommandParser, output_file
from llava.errors import InputError
from llava.eval.benchmarks.base import Scored
from llava.eval.benchmarks.files import read_jsonl
from llava.eval.benchmarks.items import items_file, write_items
from llava.eval.benchmarks.questions import Question
from llava.files import require_writable, write_json


def read_answers(result_file: Path, fields: Iterable[str] = ()) -> list[dict]:
    """The rows of an answer file, each with `question_id`, `text` and `fields`, and MMBench's fields where they are.

    Raises InputError if the file cannot be read or has a row without one of them or with one of a wrong type.
    """
    from llava.eval.benchmarks.rows import AnswerRow

    fields = ("question_id", "text", *fields)
    rows = read_jsonl(result_file, "result file", fields, schema=AnswerRow)
    if "prompt" not in fields:
        for row in rows:
            row.pop("prompt", None)  # the larger part of half a million rows
    return rows


def mismatches(
    found: Iterable[Hashable], wanted: Iterable[Hashable]
) -> tuple[list[Hashable], list[Hashable], list[Hashable]]:
    """Which of the `wanted` were found too rarely, which too often, and what was found that is not wanted.

    Something wanted twice is to be found twice.
    """
    found, wanted = Counter(iter(found)), Counter(iter(wanted))  # iter: a dict's values would be taken for counts
    missing = [key for key, count in wanted.items() if found[key] < count]
    surplus = [key for key, count in wanted.items() if found[key] > count]
    return missing, surplus, [key for key in found if key not in wanted]


def group_answers(
    pairs: Iterable[tuple[Hashable, Any]], wanted: Collection[Hashable], result_file: Path
) -> dict[Hashable, list]:
    """Answers, of (question's key, answer), by key: as many as the key has places in `wanted`.

    Raises InputError, naming how many and an example, if a question is not answered or too often, or is not wanted.
    """
    pairs = list(pairs)
    missing, surplus, unknown = mismatches((key for key, _ in pairs), wanted)
    for keys, says in (
        (missing, "lacks {} of the {} questions"),
        (surplus, "answers {} question(s) more than once"),
        (unknown, "answers {} question(s) that have no label"),
    ):
        if keys:
            raise InputError(f"{result_file} {says.format(len(keys), len(wanted))}, such as {keys[0]!r}")
    grouped = defaultdict(list)
    for key, text in pairs:
        grouped[key].append(text)
    return grouped


def join_answers(rows: list[dict], wanted: Collection[Hashable], result_file: Path) -> dict[str, str]:
    """The one answer to each `question_id` of `wanted`, by its text: 7 and "7" are the same id.

    Raises InputError as `group_answers` does, also where an id is labelled more than once.
    """
    wanted = list(map(str, wanted))
    if len(set(wanted)) < len(wanted):
        raise InputError(f"what {result_file} is to answer has {len(wanted) - len(set(wanted))} id(s) more than once")
    answers = {str(row["question_id"]): row["text"] for row in rows}
    if len(answers) < len(rows) or answers.keys() != set(wanted):  # which it then names
        group_answers([(str(row["question_id"]), row["text"]) for row in rows], wanted, result_file)
    return answers


def accuracy(hits: Sequence[float]) -> dict[str, float]:
    """Number of `samples` and mean of `hits` (each in [0, 1]) in percent. Raises InputError if there is none."""
    if not hits:
        raise InputError("there are no answers to score")
    return {"samples": len(hits), "accuracy": 100 * math.fsum(hits) / len(hits)}


def accuracy_by(groups: Iterable[str], hits: Iterable[float]) -> dict[str, dict[str, float]]:
    """`accuracy` of each group, in alphabetical order; the two run in parallel."""
    members = defaultdict(list)
    for group, hit in zip(groups, hits, strict=True):
        members[group].append(hit)
    return {group: accuracy(members[group]) for group in sorted(members)}


def chosen_option(text: str, letters: Collection[str]) -> str | None:
    """The option that an answer chooses, by the rule of ScienceQA's published figures; None if it chooses none.

    It is an option's letter, or starts with `X. `, or has once `The answer is X` with any character after that.
    """
    letters = set(letters)  # of a string, "AB" would be part
    if text in letters:
        return text
    if text[:1] in letters and text[1:3] == ". ":
        return text[0]
    said = re.findall(r"The answer is ([A-Z]).", text)
    return said[0] if len(said) == 1 and said[0] in letters else None


# A letter as one marks an option, alone or before a space: (A), A), A: and A. and these with a full stop or comma.
MARKED = re.compile(r"(?<!\S)(?:\(([A-Z])\)|([A-Z])[.):])[.,:]?(?!\S)")
# A letter that is said to be the answer; before a space, A may be an article.
SAID = re.compile(r"\b[Tt]he answer is:? (?:\(([A-Z])\)|([A-Z])(?=$|\n|[.,;:!)](?!\w)|(?<!A) ))")
FULL_WIDTH = str.maketrans({"（": " (", "）": ") ", "．": ". ", "。": ". ", "：": ": ", "，": ", "})


def named_option(text: str, letters: Collection[str]) -> str | None:
    """The option that an answer names in an unmistakable form; None if it names none.

    It is an option's letter, or starts with `X. `, or starts with `X.`, `(X)`, `X)` or `X:` before a space or at its
    end, or says `The answer is X`, and no other letter stands there in these forms. Punctuation may be Chinese.
    MMBench's own evaluator reads these forms too, and less certain ones.
    """
    letters, text = set(letters), text.translate(FULL_WIDTH).strip()
    if text in letters:
        return text
    if text[:1] in letters and text[1:3] == ". ":
        return text[0]
    marked, said = ([first or second for first, second in form.findall(text)] for form in (MARKED, SAID))
    named = {*said, *(marked if MARKED.match(text) else ())}
    return named.pop() if len(named) == 1 and named <= letters else None


def ids_of(questions: Iterable[Question]) -> set[str]:
    """The ids of questions as text: 7 and "7" are the same id."""
    return {str(question.question_id) for question in questions}


def add_result_arguments(parser: CommandParser, required: bool = True) -> None:
    """Which answers are scored, and where to."""
    parser.add_argument("--result-file", required=required, type=Path, help="answers, JSON lines")
    parser.add_argument("--output", type=output_file, help="scores as JSON (the result file's name with .score.json)")


def score_file_of(args: argparse.Namespace) -> Path:
    """Where the scores of `--result-file` go. Raises InputError if they, or their items, cannot be written there."""
    score_file = args.output or args.result_file.with_suffix(".score.json")
    require_writable(score_file, items_file(score_file))
    return score_file


def describe_accuracy(scores: dict) -> str:
    """A line for the whole, and one for each group of each grouping."""
    lines = [f"Samples: {scores['samples']}", f"Accuracy: {scores['accuracy']:.2f} %"]
    if "no_option" in scores:
        lines.append(f"Counted as wrong, no option in the answer: {scores['no_option']}")
    for grouping, groups in scores.items():
        if isinstance(groups, dict):
            lines.append(f"By {grouping.replace('_', ' ')}:")
            lines += [f"  {name}: {values['accuracy']:.2f} % of {values['samples']}" for name, values in groups.items()]
    return "\n".join(lines)


def empty_answers(answers_file: Path) -> str | None:
    """A warning, where more than half of the answers of a file are empty. Raises InputError if it cannot be read."""
    rows = read_jsonl(answers_file, "answers file", ["text"], may_be_empty=True)
    empty = sum(not str(row["text"]).strip() for row in rows)
    if 2 * empty <= len(rows):
        return None
    return f"{empty} of {len(rows)} answers are empty: the checkpoint or its prompt template may be broken"


def save_scores(scored: Scored, answers_file: Path, score_file: Path) -> Scored:
    """Write the score file and, in its folder, what each question gave; returns what was written.

    If most of the answers are empty, a warning is added. Raises InputError if a file cannot be written.
    """
    if warning := empty_answers(answers_file):
        scores, description = scored.scores | {"warning": warning}, f"{scored.description}\nwarning: {warning}"
        scored = scored._replace(scores=scores, description=description)
    write_json(score_file, scored.scores, sort_keys=False)
    if scored.items:
        write_items(scored.items, score_file)
    return scored


def report_scores(scored: Scored, args: argparse.Namespace) -> None:
    """Save and print scores, as the options of `add_result_arguments` say."""
    print(save_scores(scored, args.result_file, score_file_of(args)).description)


def score_command(
    description: str,
    evaluate: Callable[[Path, Path], Scored],
    labels: str = "--annotation-file",
    about: str = "the benchmark's labels",
) -> None:
    """The whole of a scorer's command: `evaluate` takes the path of the option `labels`, and the answers."""
    parser = CommandParser(description=description)
    parser.add_argument(labels, dest="labels", metavar="PATH", required=True, type=Path, help=about)
    add_result_arguments(parser)
    args = parser.parse_args()
    score_file_of(args)
    report_scores(evaluate(args.labels, args.result_file), args)
