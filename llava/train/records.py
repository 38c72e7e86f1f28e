"""Reads training data in LLaVA's JSON format and checks every record before a model is loaded."""

from dataclasses import dataclass
from pathlib import Path

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import SeparatorStyle, get_conversation
from llava.errors import InputError, one_line
from llava.files import open_text, parse_json


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation with at most one image.

    Attributes:
        name: for messages, with the record's id.
        image: path of the image file.
        turns: pairs of (question, answer). The question about the image begins with `<image>` and a line break,
            wherever the data has the placeholder, as in upstream.
    """

    name: str
    image: Path | None
    turns: tuple[tuple[str, str], ...]


def read_records(data_path: str | Path, image_folder: str | Path | None, version: str) -> list[Record]:
    """All records of a LLaVA JSON file, for the conversation template `version`.

    Raises InputError, naming the record, if one is malformed or its image file does not exist.
    """
    with open_text(data_path, "training data") as file:  # may be larger than what read_text takes
        rows = parse_json(file.read(), f"the training data {data_path}")
    if not isinstance(rows, list) or not rows:
        raise InputError(f"the training data {data_path} must be a JSON list of at least one record")
    records = [_read_record(row, i, Path(image_folder or "")) for i, row in enumerate(rows)]
    template = get_conversation(version)
    own = ("", template.system, template.system.removeprefix("<|im_start|>system\n"))
    for row, record in zip(rows, records, strict=True):
        if (system := row.get("system")) is not None and system not in own:
            raise InputError(
                f"{record.name}: its own system text is not used, version {version!r} has another: remove it"
            )
    captions_only = template.sep_style is SeparatorStyle.PLAIN
    found = set()
    for record in records:
        if record.image is not None and record.image not in found:
            if not _is_file(record.image):
                raise InputError(f"{record.name}: no such image file: {record.image}")
            found.add(record.image)
        if captions_only and (record.image is None or len(record.turns) != 1):
            raise InputError(f"{record.name}: version {version!r} takes one image and one caption, nothing else")
    return records


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the path is too long
        return False


def _read_record(row: object, index: int, image_folder: Path) -> Record:
    if not isinstance(row, dict):
        raise InputError(f"record number {index} is not a JSON object")
    name = f"record {repr(row['id'])[:80]}" if "id" in row else f"record number {index}"
    image = row.get("image")
    if image is not None and (not isinstance(image, str) or not image):
        raise InputError(f"{name}: its image is not one path: {repr(image)[:80]}")
    texts = _read_turns(row.get("conversations"), name)
    questions, answers = texts[0::2], texts[1::2]
    if any(DEFAULT_IMAGE_TOKEN in answer for answer in answers):
        raise InputError(f"{name}: {DEFAULT_IMAGE_TOKEN} in an answer")
    count = sum(question.count(DEFAULT_IMAGE_TOKEN) for question in questions)
    if count != (image is not None):
        wanted = f"exactly one {DEFAULT_IMAGE_TOKEN}" if image else f"no {DEFAULT_IMAGE_TOKEN}, since it has no image"
        raise InputError(f"{name}: {count} {DEFAULT_IMAGE_TOKEN} in its questions, there must be {wanted}")
    turns = tuple((_image_first(question), answer) for question, answer in zip(questions, answers))
    return Record(name, image_folder / image if image else None, turns)


def _read_turns(conversations: object, name: str) -> list[str]:
    """The texts of the turns: questions and answers in alternation."""
    if not isinstance(conversations, list) or not conversations:
        raise InputError(f"{name}: no conversations")
    texts = []
    for i, turn in enumerate(conversations):
        speaker = ("human", "gpt")[i % 2]
        if not isinstance(turn, dict) or turn.get("from") != speaker:
            raise InputError(f"{name}: turn {i} of its conversation is not from {speaker!r}: they must alternate")
        text = turn.get("value")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{name}: turn {i} of its conversation is empty")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair
            raise InputError(f"{name}: turn {i} of its conversation is not Unicode: {one_line(error)}") from error
        texts.append(text)
    if len(texts) % 2:
        raise InputError(f"{name}: its conversation ends without an answer")
    return texts


def _image_first(question: str) -> str:
    if DEFAULT_IMAGE_TOKEN not in question:
        return question
    text = question.replace(DEFAULT_IMAGE_TOKEN, "").strip()
    return f"{DEFAULT_IMAGE_TOKEN}\n{text}".strip()
