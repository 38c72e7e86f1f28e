"""Training data in LLaVA's JSON format, every record checked before anything is loaded."""

import json
from dataclasses import dataclass
from pathlib import Path

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.utils import InputError, read_text


@dataclass(frozen=True, slots=True)
class Record:
    """One conversation: an image or none, and pairs of (question, answer). The question with the image begins with
    `<image>` and a line break, wherever in it the data had the placeholder, as upstream trains it."""

    name: str
    image: Path | None
    turns: tuple[tuple[str, str], ...]


def read_records(data_path: str | Path, image_folder: str | Path | None, version: str) -> list[Record]:
    """All records of a LLaVA JSON file, for the conversation template `version`.

    Raises InputError, naming the record, if one is malformed or its image file is not there.
    """
    try:
        rows = json.loads(read_text(data_path, "training data"))
    except json.JSONDecodeError as error:
        raise InputError(f"the training data {data_path} is not JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"the training data {data_path} must be a JSON list of at least one record")
    records = [_read_record(row, i, Path(image_folder or "")) for i, row in enumerate(rows)]
    is_there = {}
    for record in records:
        if record.image is not None and record.image not in is_there:
            is_there[record.image] = record.image.is_file()
            if not is_there[record.image]:
                raise InputError(f"{record.name}: no such image file: {record.image}")
        if version == "plain" and (record.image is None or len(record.turns) != 1):
            raise InputError(f"{record.name}: version 'plain' takes one image and one caption, nothing else")
    return records


def _read_record(row: object, index: int, image_folder: Path) -> Record:
    if not isinstance(row, dict):
        raise InputError(f"record number {index} is not a JSON object")
    name = f"record {row['id']!r}" if "id" in row else f"record number {index}"
    image = row.get("image")
    if image is not None and (not isinstance(image, str) or not image):
        raise InputError(f"{name}: its image is not one path: {image!r}")
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
    """The texts of the turns, question and answer alternating."""
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
        texts.append(text)
    if len(texts) % 2:
        raise InputError(f"{name}: its conversation ends without an answer")
    return texts


def _image_first(question: str) -> str:
    if DEFAULT_IMAGE_TOKEN not in question:
        return question
    text = question.replace(DEFAULT_IMAGE_TOKEN, "").strip()
    return f"{DEFAULT_IMAGE_TOKEN}\n{text}".strip()
