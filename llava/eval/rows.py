"""What a record of the benchmarks' files may hold: types and sizes of its fields, checked once, where it enters.

Fields that are not named here are nobody's business. Those that are named may be absent from question and answer files,
where the reader says which it needs.
"""

from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo
from typing_extensions import TypedDict  # that of typing lacks, before Python 3.12, what pydantic needs

from llava.errors import InputError

MOST_TEXT = 100_000  # characters of a question or an option; the longest prompts that LLaVA is asked have 3,000

# A text that can be written as UTF-8: pydantic refuses half a surrogate pair.
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Name = Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00]+$")]
Id = Annotated[int, Field(ge=-(2**63), lt=2**63)] | Annotated[str, Field(max_length=1_000)]
Choice = Literal["A", "B", "C", "D"]


def _answer(text: Any, info: ValidationInfo) -> str:
    # A model may say anything, half a surrogate pair too, and one such answer must not keep others from being read.
    if not isinstance(text, str):
        raise ValueError(f"the answer to {info.data.get('question_id')!r} is not a string")
    return text


class Row(TypedDict, total=False):
    """A line of a question or an answer file, whole."""

    __pydantic_config__ = ConfigDict(extra="allow")
    question_id: Id
    image: Name
    prompt: str
    round_id: Annotated[int, Field(ge=0)]
    text: Annotated[Any, AfterValidator(_answer)]


class AnswerRow(TypedDict, total=False):
    """What scorers and converters read of a line of an answer file."""

    question_id: Id
    prompt: str
    round_id: Annotated[int, Field(ge=0)]
    option_char: list[Choice]
    text: Annotated[Any, AfterValidator(_answer)]


class QuestionRow(TypedDict, total=False):
    """What is read of a line of a question file, or of POPE's labels."""

    question_id: Id
    image: Name
    text: Text
    category: Name
    label: Name


class _Turn(TypedDict):
    value: Text


class ScienceQuestion(TypedDict):
    """An entry of LLaVA's ScienceQA file."""

    id: Id
    conversations: list[_Turn]
    image: NotRequired[Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00]*$")] | None]


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


_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FigureItems(TypedDict):
    """The items of one figure: id, picture, part and whole of each, by term."""

    combine: Literal["mean", "sum"]
    terms: dict[str, list[tuple[str, str, _Amount, _Amount]]]


@cache
def adapter(schema: type) -> TypeAdapter:
    """What checks values against a schema."""
    return TypeAdapter(schema)


def check(value: object, schema: type, where: str) -> Any:
    """What `schema` keeps of a value. Raises InputError, saying where, for the first fault of one that is not so."""
    try:
        return adapter(schema).validate_python(value, strict=True)
    except ValidationError as error:
        raise InputError(f"{where}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """What is wrong, with the field's name, in a few words that quote no more than 60 characters of it."""
    fault = error.errors(include_url=False)[0]
    kind, place, context = fault["type"], fault["loc"], fault.get("ctx", {})
    if place and str(place[-1]).startswith("constrained-"):  # an Id fits neither of its two types
        kind, place = "id", place[:-1]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    given = f"{fault['input']!r:.60}"
    match kind:
        case "value_error":
            return str(context["error"])
        case "missing":
            return f"no {name}"
        case "string_too_long":
            return f"{name} has more than {context['max_length']} characters"
        case "too_short":
            return f"{name} is empty"
        case "literal_error":
            return f"{name} is {given}, not {context['expected']}"
    return (
        f"{name or 'it'} is not {_WANTED[kind]}: {given}" if kind in _WANTED else f"{name} is {given}: {fault['msg']}"
    )


_WANTED = {
    "id": "a whole number or a short string",
    "string_type": "a string",
    "string_unicode": "a string that UTF-8 can hold",
    "string_pattern_mismatch": "a name",
    "int_type": "a whole number",
    "list_type": "a list",
    "dict_type": "an object",
}
