"""The answer file: JSON lines of `question_id`, `prompt`, `text`, `answer_id`, `model_id`, `metadata`.

While questions are being answered the answers are appended to files in `NAME.parts/`, one for each process, beside
`NAME.settings.json`; when all are there they become `NAME.jsonl`, in the order of the questions.

As a command it merges answer files that were made apart, by --num-chunks:
python -m llava.eval.answers --question-file Q --answers-files A B ... --output M
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

import shortuuid

from llava.eval.files import read_jsonl, write_json
from llava.eval.questions import Question, read_mmbench_questions, read_science_questions
from llava.eval.settings import DEFAULTS
from llava.utils import CommandParser, InputError, atomic_writer, one_line, read_json_object, read_text, run_command

# What is made of an answer file: of no use, and misleading, once the answers are others.
MADE_OF_IT = (".score.json", ".upload.json", ".upload.jsonl", ".xlsx")


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


class AnswerStore:
    """The answers to a list of questions, in the course of being made, in the files described above.

    One process of a run calls `resume` and, at the end, `finish`; each calls `appending`.
    """

    def __init__(self, answers_file: Path, questions: list[Question]) -> None:
        self.file, self.questions = answers_file, questions
        self.parts, self.settings_file = answers_file.with_suffix(".parts"), answers_file.with_suffix(".settings.json")
        self._lock: TextIO | None = None

    def resume(self, settings: dict, overwrite: bool = False) -> list[int]:
        """Which of the questions have no answer yet, by number. A line that was not finished is dropped.

        Raises InputError if the folder cannot be written, another run writes there, or answers are there that were
        made with other settings, unless `overwrite` drops them.
        """
        self._take_hold()
        try:
            if overwrite:
                self._drop()
            if self.file.exists() or any(self.lengths().values()):
                self._require_same(settings)
            else:
                write_json(self.settings_file, settings)
            missing = self._unanswered()
            for suffix in MADE_OF_IT if missing else ():
                self.file.with_suffix(suffix).unlink(missing_ok=True)
            return missing
        except InputError:
            self._lock.close()
            if not self._part_files():
                shutil.rmtree(self.parts)
            raise

    def _take_hold(self) -> None:
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            self._lock = (self.parts / "lock").open("a")
        except OSError as error:
            raise InputError(f"cannot write {self.file}: {one_line(error)}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another run is writing {self.file}") from error

    def _unanswered(self) -> list[int]:
        for file in (*self._part_files(), *([self.file] if self.file.exists() else [])):
            _drop_unfinished_line(file)
        if self.file.exists():
            if not self._missing(_read_rows([self.file])):
                shutil.rmtree(self.parts)  # what a run leaves that is killed after its last step
                return []
            self.file.replace(self.parts / "rest.jsonl")  # someone cut it: what is left is as good as a part
        return self._missing(_read_rows(self._part_files()))

    def _part_files(self) -> list[Path]:
        return sorted(self.parts.glob("*.jsonl"))

    def _drop(self) -> None:
        for file in (*self._part_files(), self.file, self.settings_file):
            file.unlink(missing_ok=True)

    def _require_same(self, settings: dict) -> None:
        if not self.settings_file.exists():
            raise InputError(
                f"{self.file} has answers, but not the settings they were made with: --overwrite drops them"
            )
        old = read_json_object(self.settings_file, "settings of the answers")
        old, new = DEFAULTS | old, DEFAULTS | settings
        changed = [name for name in dict.fromkeys((*new, *old)) if old.get(name) != new.get(name)]
        if changed:
            what = ", ".join(f"{name} {old.get(name)!r} is now {new.get(name)!r}" for name in changed)
            raise InputError(
                f"the answers in {self.file} were made with other settings: {what}; --overwrite drops them"
            )

    def _missing(self, rows: list[dict]) -> list[int]:
        left = Counter(map(_key_of_row, rows))
        missing = []
        for i, question in enumerate(self.questions):
            key = key_of_question(question)
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

    def lengths(self) -> dict[Path, int]:
        """The bytes of each part."""
        return {part: part.stat().st_size for part in self._part_files()}

    def finish(self, count: int = 1) -> None:
        """Make the parts, those of this run's `count` processes and of earlier ones, one file in the questions' order.

        Raises InputError as `write_in_order` does.
        """
        # By name, since a listing of a folder on a network may be older than what other machines put there.
        named = {self.parts / f"{rank}.jsonl" for rank in range(count)}
        rows = _read_rows(sorted({*self._part_files(), *filter(Path.exists, named)}))
        write_in_order(list(map(key_of_question, self.questions)), list(map(_key_of_row, rows)), rows, self.file)
        shutil.rmtree(self.parts)


def _read_rows(files: Iterable[str | Path]) -> list[dict]:
    """The answers of several files."""
    fields = ("question_id", "prompt", "text")
    return [row for file in files for row in read_jsonl(file, "answers file", fields, may_be_empty=True)]


def _drop_unfinished_line(path: Path) -> None:
    """Cut off what a killed process left of a line, and a last line that is no JSON."""
    with path.open("rb+") as file:
        text = file.read()
        end = text.rfind(b"\n") + 1
        last = text[:end].rstrip(b"\n").rfind(b"\n") + 1
        try:
            if end:
                json.loads(text[last:end])
        except ValueError:
            end = last
        if end < len(text):
            file.truncate(end)
            os.fsync(file.fileno())


def key_of_question(question: Question) -> tuple:
    """What tells a question from the others of its file; MME's ids do not, nor TextVQA's."""
    return question.question_id, question.prompt, question.extra.get("round_id", 0)


def _key_of_row(row: dict) -> tuple:
    return row["question_id"], row["prompt"], row.get("round_id", 0)


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
    """What tells the questions of a file apart, in its order, and the same of each of its answers."""
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
    rows = _read_rows(answers_files)
    wanted, found = _keys(question_file, rows)
    write_in_order(wanted, found, rows, output)
    return len(wanted)


def main() -> None:
    parser = CommandParser(description="Merge answer files in the order of the questions, each exactly once.")
    parser.add_argument("--question-file", required=True)
    parser.add_argument("--answers-files", required=True, nargs="+")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    count = merge_answers(args.question_file, args.answers_files, args.output)
    print(f"{count} answers in {args.output}")


if __name__ == "__main__":
    run_command(main)
