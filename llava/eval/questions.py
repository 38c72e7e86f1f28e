"""The benchmarks' question files, each read into the one form that `answering` takes."""

import base64
import binascii
import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.files import read_json_list, read_jsonl, require_fields
from llava.utils import InputError, one_line, read_text

LETTER_SENTENCE = {
    "en": "Answer with the option's letter from the given choices directly.",
    "cn": "请直接回答选项字母。",
}
OPTIONS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Question:
    """One question to a model.

    Attributes:
        question_id: as the question file has it; not always unique.
        asked: the user's turn without its image token.
        image: a file, or an encoded image, or None for a question of text alone.
        prompt: what the answer file records as the prompt.
        extra: further fields of its line in the answer file.
    """

    question_id: int | str
    asked: str
    image: Path | bytes | None
    prompt: str
    extra: dict = field(default_factory=dict)


def read_question_file(path: str | Path, image_folder: Path) -> list[Question]:
    """JSON lines of `question_id`, `image`, `text`. Raises InputError if the file is not of that form."""
    questions = []
    for row in read_jsonl(path, "question file", ["question_id", "image", "text"]):
        if not isinstance(row["image"], str) or not isinstance(row["text"], str):
            raise InputError(f"question file {path}: image and text of {row['question_id']!r} must be strings")
        questions.append(Question(row["question_id"], row["text"], image_folder / row["image"], row["text"]))
    # MME and TextVQA name their questions by the image, elsewhere scores and uploads are joined by the id alone.
    _require_unique(
        (q.question_id for q in questions if str(q.question_id) not in (q.image.stem, _inside(q.image, image_folder))),
        f"question file {path}",
    )
    return questions


def _inside(image: Path, folder: Path) -> str:
    return image.relative_to(folder).as_posix() if image.is_relative_to(folder) else str(image)


def _require_unique(ids: Iterable[int | str], where: str) -> None:
    """Raise InputError, saying where, if one of `ids` stands there twice; 7 and "7" are the same."""
    if again := [number for number, count in Counter(map(str, ids)).items() if count > 1]:
        raise InputError(f"{where}: {len(again)} question_id(s) more than once, such as {again[0]}")


def read_science_questions(path: str | Path, image_folder: Path, single_pred_prompt: bool) -> list[Question]:
    """LLaVA's ScienceQA file, a JSON list of conversations, of which the first human turn is the question.

    A question without `image` is one of text alone. With `single_pred_prompt` the sentence that asks for the option's
    letter is added. Raises InputError if the file is not of that form.
    """
    questions = []
    for row in read_json_list(path, "question file", ["id", "conversations"]):
        turns = row["conversations"]
        for turn in turns[:1] or [None]:
            require_fields(turn, ["from", "value"], f"question file {path}, {row['id']}, first turn")
        asked = turns[0]["value"].replace(DEFAULT_IMAGE_TOKEN, "").strip()
        if single_pred_prompt:
            asked += f"\n{LETTER_SENTENCE['en']}"
        image = image_folder / row["image"] if row.get("image") else None
        prompt = f"{DEFAULT_IMAGE_TOKEN}\n{asked}" if image else asked
        questions.append(Question(row["id"], asked, image, prompt))
    _require_unique((question.question_id for question in questions), f"question file {path}")
    return questions


def is_absent(cell: str | None) -> bool:
    """Whether a cell of an MMBench file says that there is nothing: empty, nan or none."""
    return cell is None or cell.strip().lower() in ("", "nan", "none")


def read_mmbench_table(path: str | Path, columns: list[str]) -> list[dict[str, str]]:
    """The rows of an MMBench file, by column. Raises InputError if one of `columns` or a numeric `index` is missing."""
    limit = csv.field_size_limit(2**31 - 1)  # images are cells, and far longer than the csv module allows by default
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, "question file")), delimiter="\t")
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"the question file {path} is not tab-separated: {one_line(error)}") from error
    finally:
        csv.field_size_limit(limit)
    require_fields(dict.fromkeys(reader.fieldnames or []), ["index", *columns], f"question file {path}, header")
    if not rows:
        raise InputError(f"the question file {path} has no questions")
    for row in rows:
        if None in row or None in row.values():
            raise InputError(f"question file {path}: question {row['index']!r} has not as many cells as the header")
        if not row["index"].strip().isdecimal():
            raise InputError(f"question file {path}: {row['index']!r} is no index")
    if again := [index for index, count in Counter(int(row["index"]) for row in rows).items() if count > 1]:
        raise InputError(f"question file {path}: {len(again)} index(es) more than once, such as {again[0]}")
    return rows


def options_of(row: dict[str, str]) -> list[str]:
    """The options of an MMBench question: those up to the first that is absent."""
    options = []
    for letter in OPTIONS:
        if is_absent(row.get(letter)):
            break
        options.append(row[letter])
    return options


def read_mmbench_questions(
    path: str | Path, single_pred_prompt: bool = False, lang: str = "en", all_rounds: bool = False
) -> list[Question]:
    """MMBench's table, with its images inside.

    The user's turn is hint, question and lettered options, and with `single_pred_prompt` the sentence of `lang` that
    asks for the letter, which the answer file does not record. With `all_rounds` a question of n options is asked n
    times, with its options moved up by one each time; `option_char` then holds the letters that they have in the file.
    Raises InputError if the file is not of that form.
    """
    questions = []
    for row in read_mmbench_table(path, ["question", "image", *OPTIONS[:2]]):
        try:
            image = base64.b64decode("".join(row["image"].split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"question file {path}: the image of {row['index']} is not base64: {error}") from error
        stem = row["question"] if is_absent(row.get("hint")) else f"{row['hint']}\n{row['question']}"
        options = options_of(row)
        for shift in range(max(1, len(options)) if all_rounds else 1):
            shown = options[shift:] + options[:shift]
            prompt = "\n".join([stem, *(f"{letter}. {option}" for letter, option in zip(OPTIONS, shown))])
            asked = f"{prompt}\n{LETTER_SENTENCE[lang]}" if single_pred_prompt else prompt
            letters = [*OPTIONS[: len(options)]]
            extra = {"round_id": shift, "options": shown, "option_char": letters[shift:] + letters[:shift]}
            questions.append(Question(int(row["index"]), asked, image, prompt, extra))
    return questions


def get_chunk(questions: list, num_chunks: int, chunk_idx: int) -> list:
    """Part `chunk_idx` of `num_chunks` contiguous parts whose sizes differ by one at most."""
    if not 0 <= chunk_idx < num_chunks:
        raise InputError(f"chunk-idx must be in [0, num-chunks), got {chunk_idx} of {num_chunks}")
    start, end = (len(questions) * i // num_chunks for i in (chunk_idx, chunk_idx + 1))
    return questions[start:end]
