"""The answer file: JSON lines of `question_id`, `prompt`, `text`, `answer_id`, `model_id`, `metadata`.

While questions are being answered the answers are appended to files in `NAME.parts/`, one for each process, next to
`NAME.settings.json`; when all are there they become `NAME.jsonl`, in the order of the questions.

As a command it merges answer files that were made apart, by --num-chunks:
python -m llava.eval.run.answers --question-file Q --answers-files A B ... --output M
"""

import contextlib
import json
import logging
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TextIO

import shortuuid

from llava.cli import CommandParser, output_file, run_command
from llava.errors import InputError, one_line
from llava.eval.benchmarks import made_from
from llava.eval.benchmarks.files import read_jsonl
from llava.eval.benchmarks.questions import Question, read_mmbench_questions, read_science_questions
from llava.eval.benchmarks.scoring import mismatches
from llava.eval.run.answer_rows import check_answers, drop_unfinished_line, key_of_row, read_rows
from llava.eval.run.lock import AnswersLock
from llava.eval.run.settings import DEFAULTS, STAMPS
from llava.files import atomic_writer, read_json_object, read_text, write_json

logger = logging.getLogger(__name__)


def answer_line(question: Question, text: str, model_id: str) -> str:
    """One line of an answer file."""
    row = {
        "question_id": question.question_id,
        "prompt": question.prompt,
        "text": text,
        **question.extra,
        "answer_id": shortuuid.uuid(),
        "model_id": model_id,
        "metadata": {},
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_answers(file: Path, questions: list[Question], texts: list[str]) -> None:
    """Write an answer file, with an escape in place of what UTF-8 cannot hold: half a surrogate pair."""
    lines = (answer_line(question, text, "") for question, text in zip(questions, texts, strict=True))
    file.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


class AnswerStore:
    """The answers to a list of questions, in the course of being made, in the files described above.

    The first process of a run calls `resume`, then `begin` and, at the end, `finish`; each other one `join`; all call
    `appending`.
    """

    def __init__(self, answers_file: Path, questions: list[Question]) -> None:
        self.file, self.questions = answers_file, questions
        self.parts, self.settings_file = answers_file.with_suffix(".parts"), answers_file.with_suffix(".settings.json")
        self._lock = AnswersLock(answers_file, self.parts)
        self._replacement: dict | None = None  # settings of a run that is to drop the answers there are

    def known_settings(self) -> dict:
        """The settings of the answers that are there; empty where they cannot be read."""
        try:
            return read_json_object(self.settings_file, "settings of the answers")
        except InputError:
            return {}

    def resume(self, settings: dict, overwrite: bool = False) -> list[int]:
        """Which of the questions have no answer yet, by number. A line that was not finished is dropped.

        `settings` are what decides the answers (see `settings.Decisive`), with the stamps of files that are true now.
        With `overwrite`, answers that were made with other settings do not count; `begin` drops them. Raises
        InputError if the folder cannot be written, another run writes there, answers are there that were made with
        other settings, or what is there is not answers to these questions, each once.
        """
        self._lock.take()
        try:
            return self._resume(settings, overwrite)
        except InputError:
            self.abandon()
            raise

    def _resume(self, settings: dict, overwrite: bool) -> list[int]:
        if not self._has_answers():
            write_json(self.settings_file, settings, sort_keys=False)
        elif changed := self._other_settings(settings):
            if not overwrite:
                raise InputError(f"{changed} --overwrite drops them")
            self._replacement = settings
            return list(range(len(self.questions)))
        # So that contents need not be read the next time.
        elif self.known_settings().get(STAMPS) != settings.get(STAMPS):
            write_json(self.settings_file, settings, sort_keys=False)
        return self._unanswered()

    def join(self, rank: int) -> None:
        """Take part in a run as another process than the first, which has called `resume`."""
        self._lock.take(rank)

    def has_ended(self, rank: int) -> bool:
        """Whether the process `rank` of this run, which has joined, is gone."""
        return self._lock.has_ended(rank)

    def abandon(self) -> None:
        """Let other runs write, and leave nothing behind if there are no answers."""
        if not self._lock.is_held:
            return
        if not self._has_answers():
            self.settings_file.unlink(missing_ok=True)
        if not any(self.lengths().values()):
            self._lock.remove_new_folders()
        self.close()

    def close(self) -> None:
        """Let other runs write."""
        self._lock.close()

    def begin(self) -> None:
        """Called when the model is ready: drop the answers of other settings, and what was made of earlier answers.

        Raises InputError if that cannot be.
        """
        dropped = [] if self._replacement is None else [*self._part_files(), self.file]
        try:
            for file in (*dropped, *made_from(self.file)):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove what is to be replaced: {one_line(error)}") from error
        if self._replacement is not None:
            write_json(self.settings_file, self._replacement, sort_keys=False)

    def _has_answers(self) -> bool:
        return self.file.exists() or any(self.lengths().values())

    def _part_files(self) -> list[Path]:
        return sorted(self.parts.glob("*.jsonl"))

    def _other_settings(self, settings: dict) -> str | None:
        """What the settings of the answers differ in, if they do."""
        if not self.settings_file.exists():
            return f"{self.file} has answers, but not the settings they were made with:"
        old = read_json_object(self.settings_file, "settings of the answers")
        old, new = DEFAULTS | old, DEFAULTS | settings
        names = [name for name in dict.fromkeys((*new, *old)) if name != STAMPS]
        changed = [name for name in names if old.get(name) != new.get(name)]
        if not changed:
            return None
        what = ", ".join(f"{name} {old.get(name)!r} is now {new.get(name)!r}" for name in changed)
        return f"the answers in {self.file} were made with other settings: {what};"

    def _unanswered(self) -> list[int]:
        """The questions without an answer, by number; all that is there is checked."""
        keys = list(map(key_of_question, self.questions))
        if self.file.exists():
            drop_unfinished_line(self.file)
            found = check_answers([self.file], keys)
            if found == keys:
                shutil.rmtree(self.parts, ignore_errors=True)  # a run was killed after its last step but this
                return []
            fault = "lacks answers" if len(found) < len(keys) else "is not in the order of the questions"
            logger.warning("%s %s: it is completed and put in order", self.file, fault)
            self.file.replace(self.parts / "rest.jsonl")  # what is left is as good as a part
        for file in self._part_files():
            drop_unfinished_line(file)
        left = Counter(check_answers(self._part_files(), keys))
        missing = []
        for i, key in enumerate(keys):
            if left[key]:
                left[key] -= 1
            else:
                missing.append(i)
        return missing

    @contextlib.contextmanager
    def appending(self, rank: int) -> Iterator[TextIO]:
        """The file of one process of the run, open to add lines. Raises InputError if it cannot be written."""
        try:
            with (self.parts / f"{rank}.jsonl").open("a", encoding="utf-8") as file:
                yield file
        except OSError as error:
            raise InputError(f"cannot write to {self.parts}: {one_line(error)}") from error

    def add(self, file: TextIO, line: str) -> None:
        """Add a line to a file of `appending`. Raises InputError if someone has removed the file since."""
        file.write(line)
        file.flush()
        try:
            is_there = os.path.samestat(Path(file.name).stat(), os.fstat(file.fileno()))
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise InputError(f"{file.name} was removed while answers were written to it")

    def lengths(self) -> dict[Path, int]:
        """The bytes of each part."""
        lengths = {}
        for part in self._part_files():
            with contextlib.suppress(FileNotFoundError):  # someone removes them
                lengths[part] = part.stat().st_size
        return lengths

    def finish(self, count: int = 1) -> None:
        """Make the parts, those of this run's `count` processes and of earlier ones, one file in the questions' order.

        Raises InputError as `write_in_order` does.
        """
        # By name, since a listing of a folder on a network may be older than what other machines put there.
        named = {self.parts / f"{rank}.jsonl" for rank in range(count)}
        rows = read_rows(sorted({*self._part_files(), *filter(Path.exists, named)}))
        write_in_order(list(map(key_of_question, self.questions)), list(map(key_of_row, rows)), rows, self.file)
        shutil.rmtree(self.parts, ignore_errors=True)  # another process may be about to let go of its lock there


def key_of_question(question: Question) -> tuple:
    """The key that distinguishes a question in its file; MME's ids do not, nor TextVQA's."""
    return question.question_id, question.prompt, question.extra.get("round_id", 0)


def write_in_order(wanted: list[Hashable], found: list[Hashable], rows: list[dict], output: str | Path) -> None:
    """Write `rows`, whose keys are `found`, in the order of the keys `wanted`.

    Raises InputError, naming them, if a question has no answer or several, or an answer no question.
    """
    missing, surplus, unknown = mismatches(found, wanted)
    for what, keys in (
        ("unanswered", missing),
        ("answered more than once", surplus),
        ("not in the question file", unknown),
    ):
        if keys:
            some = ", ".join(str(key[0]) for key in keys[:5])
            raise InputError(f"cannot merge into {output}: {len(keys)} question(s) {what}: {some}")
    by_key = defaultdict(list)
    for key, row in zip(found, rows, strict=True):
        by_key[key].append(row)
    with atomic_writer(output) as file:
        file.writelines(json.dumps(by_key[key].pop(0), ensure_ascii=False) + "\n" for key in wanted)


def _keys(question_file: str | Path, rows: list[dict]) -> tuple[list[tuple], list[tuple]]:
    """The keys of a file's questions, in its order, and of each of its answers."""
    if Path(question_file).suffix == ".tsv":
        all_rounds = any(row.get("round_id") for row in rows)
        questions = read_mmbench_questions(question_file, all_rounds=all_rounds)
        wanted = [(question.question_id, question.extra["round_id"]) for question in questions]
        return wanted, [(row["question_id"], row.get("round_id", 0)) for row in rows]
    if read_text(question_file, "question file").lstrip().startswith("["):
        # The prompt depends on an option of the command that asked, and ids are unique.
        questions = read_science_questions(question_file, Path(), single_pred_prompt=False)
        return [(question.question_id,) for question in questions], [(row["question_id"],) for row in rows]
    questions = read_jsonl(question_file, "question file", ["question_id", "text"])
    wanted = [(question["question_id"], question["text"]) for question in questions]
    return wanted, [(row["question_id"], row["prompt"]) for row in rows]


def merge_answers(question_file: str | Path, answers_files: list[str], output: str | Path) -> int:
    """Write the answers of several files as one, in the order of the questions; returns how many.

    An answer belongs to the question with its `question_id` and text, in MMBench with its id and round, in ScienceQA
    with its id. Raises InputError as `write_in_order` does.
    """
    rows = read_rows(answers_files)
    wanted, found = _keys(question_file, rows)
    write_in_order(wanted, found, rows, output)
    return len(wanted)


def main() -> None:
    parser = CommandParser(description="Merge answer files in the order of the questions, each exactly once.")
    parser.add_argument("--question-file", required=True)
    parser.add_argument("--answers-files", required=True, nargs="+")
    parser.add_argument("--output", required=True, type=output_file)
    args = parser.parse_args()
    count = merge_answers(args.question_file, args.answers_files, args.output)
    print(f"{count} answers in {args.output}")


if __name__ == "__main__":
    run_command(main)
