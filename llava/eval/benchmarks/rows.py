"""What a record of the benchmarks' files may hold: types of its fields, checked once, where it enters.

Unknown fields are accepted and ignored. Those that are named may be absent from question and answer files, where the
reader says which it needs.
"""

from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # that of typing lacks, before Python 3.12, what pydantic needs

from llava.errors import InputError

Name = Annotated[str, Field(pattern=r"^[^\x00]+$")]
Id = int | str
Choice = Literal["A", "B", "C", "D"]


class Row(TypedDict, total=False):
    """A line of a question or an answer file, whole."""

    __pydantic_config__ = ConfigDict(extra="allow")
    question_id: Id
    image: Name
    prompt: str
    round_id: Annotated[int, Field(ge=0)]
    text: str


class AnswerRow(TypedDict, total=False):
    """What scorers and converters read of a line of an answer file."""

    question_id: Id
    prompt: str
    round_id: Annotated[int, Field(ge=0)]
    option_char: list[Choice]
    text: str


class QuestionRow(TypedDict, total=False):
    """What is read of a line of a question file, or of POPE's labels."""

    question_id: Id
    image: Name
    text: str
    category: Name
    label: Name


class _Turn(TypedDict):
    value: str


class ScienceQuestion(TypedDict):
    """An entry of LLaVA's ScienceQA file."""

    id: Id
    conversations: list[_Turn]
    image: NotRequired[Annotated[str, Field(pattern=r"^[^\x00]*$")] | None]


class ScienceProblem(TypedDict):
    """An entry of `problems.json`."""

    choices: Annotated[list[str], Field(min_length=1)]
    answer: int
    image: str | None


class _GqaTypes(TypedDict):
    structural: str | None
    semantic: str | None


class GqaLabel(TypedDict):
    """An entry of GQA's questions."""

    answer: str
    types: _GqaTypes
    imageId: NotRequired[Id]


class _VqaAnswer(TypedDict):
    answer: str


class VqaLabel(TypedDict):
    """An entry of VQAv2's annotations."""

    question_id: Id
    image_id: NotRequired[Id]
    answer_type: str
    answers: Annotated[list[_VqaAnswer], Field(min_length=1)]


class TextvqaLabel(TypedDict):
    """An entry of TextVQA's data."""

    image_id: Id
    question: str
    answers: Annotated[list[str], Field(min_length=1)]


class SeedLabel(TypedDict):
    """An entry of SEED-Bench's questions."""

    question_id: Id
    question_type_id: Annotated[int, Field(ge=0)]
    data_type: str
    data_id: NotRequired[Id]
    answer: Choice


class SeedLabels(TypedDict):
    """SEED-Bench's file of labels."""

    question_type: dict[str, int]
    questions: list[Any]


_Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class FigureItems(TypedDict):
    """The items of one figure: id, picture, part and whole of each, by term."""

    combine: Literal["mean", "sum"]
    terms: dict[str, list[tuple[str, str, _Amount, _Amount]]]


@cache
def adapter(schema: type) -> TypeAdapter:
    """What checks values against a schema."""
    return TypeAdapter(schema)


def check(value: object, schema: type, where: str) -> Any:
    """What `schema` keeps of a value. Raises InputError, saying where, for the first fault of one that does not fit."""
    try:
        return adapter(schema).validate_python(value, strict=True)
    except ValidationError as error:
        raise InputError(f"{where}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """The field that is wrong, in pydantic's words, with no more than 60 characters of what is there."""
    fault = error.errors(include_url=False)[0]
    if fault["type"] == "json_invalid":
        return f"not JSON: {fault['ctx']['error']}"
    place = [part for part in fault["loc"] if part not in ("int", "str")]  # of an Id, which fits neither
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    if fault["type"] == "missing":
        return f"no {name}"
    return f"{name or 'it'} is {fault['input']!r:.60}: {fault['msg']}"
