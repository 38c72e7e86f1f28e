"""What a benchmark says about itself."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from llava.errors import InputError
from llava.eval.benchmarks.items import Items
from llava.eval.benchmarks.questions import Question, read_question_file


class MissingData(InputError):
    """A benchmark's questions, pictures or labels are not there."""


class Scored(NamedTuple):
    """What a scorer gives.

    Attributes:
        scores: what goes into the score file, as JSON holds it.
        description: the lines that a command prints.
        items: what each question gave to the figures, by their keys in `scores`; figures without have no interval.
    """

    scores: dict
    description: str
    items: Mapping[str, Items] = MappingProxyType({})


@dataclass(frozen=True)
class Headline:
    """A figure that represents a benchmark: its heading in a table, its key in the score file, and its unit."""

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
        score: (data, answer file, questions) -> `Scored`; the questions are those of a sample, None for all. None where
            labels are not public.
        convert: (data, answer file, file to submit) -> a line about it; None where there is nothing to submit.
        submission: the name of the file to submit, in the folder of answers named merge.jsonl.
        submit: the command that writes that file from any answers; see `llava.eval.submit`.
        needs: modules of the extra `eval` that `convert` imports.
        by_products: what else `score` writes next to the answers, by the endings that replace `.jsonl`.
        max_new_tokens: of an answer.
        place: of its column in a table; those of equal place are in alphabetical order.
        made_by: the command that makes its data, which is not bundled; such a benchmark is asked only by its own name.
    """

    name: str
    folder: str
    questions: str
    headlines: tuple[Headline, ...]
    images: str | None = None
    labels: tuple[str, ...] = ()
    read: Callable[[Path, Path | None], list[Question]] = read_question_file
    score: Callable[[Path, Path, list[Question] | None], Scored] | None = None
    convert: Callable[[Path, Path, Path], str] | None = None
    submission: str | None = None
    submit: Callable[[], None] | None = None
    needs: tuple[str, ...] = ()
    by_products: tuple[str, ...] = ()
    max_new_tokens: int = 128
    place: int = 100
    made_by: str | None = None

    @property
    def split(self) -> str:
        """The folder of its answers."""
        return Path(self.questions).stem

    def require_data(self, data_dir: Path) -> None:
        """Raise MissingData if something that answers and scores are made from is not there."""
        for name in (self.questions, *([] if self.images is None else [self.images]), *self.labels):
            if not (path := data_dir / self.folder / name).exists():
                get = f"`{self.made_by}` makes it" if self.made_by else "see EVAL.md for where to get it"
                raise MissingData(f"{path} is missing: {get}")

    def require_packages(self) -> None:
        """Raise InputError if a package is not installed that the file to submit needs."""
        if absent := [name for name in self.needs if importlib.util.find_spec(name) is None]:
            raise InputError(
                f"{self.name} needs {', '.join(absent)} for its {self.submission}: pip install -e '.[eval]'"
            )

    def read_questions(self, data_dir: Path) -> list[Question]:
        """Its questions. Raises InputError if a file is not in its form."""
        data = data_dir / self.folder
        return self.read(data / self.questions, None if self.images is None else data / self.images)
