"""Training data that is damaged or hostile: refused in one short line, or read where it can be."""

import json

import pytest

from llava.constants import DEFAULT_IMAGE_TOKEN as IMAGE
from llava.errors import InputError
from llava.train.labels import build_prompt
from llava.train.records import read_records
from tests.train.conftest import CAPTIONS, INSTRUCTIONS, conversation

GOOD = INSTRUCTIONS[0]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[" * 100_000, "nested too deeply"),
        (f'[{{"id": {"9" * 5000}}}]', "digits"),
        (json.dumps([GOOD | {"conversations": conversation(f"{IMAGE}\nA?", "half \ud83d")}]), "turn 1 of its"),
        (json.dumps([GOOD | {"image": "a" * 5000}]), "record 'one': no such image file"),
        (json.dumps([GOOD | {"image": "a\0b"}]), "record 'one': no such image file"),
        (json.dumps([GOOD | {"image": "\ud83d"}]), "record 'one': no such image file"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, starting_point, text, cause):
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_records(path, starting_point / "images", "v1")
    assert cause in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["id", "image"])
def test_a_long_value_is_cut_in_the_message(tmp_path, field):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([GOOD | {"image": 1} | {field: ["x" * 10_000]}]))
    with pytest.raises(InputError, match="its image is not one path") as error:
        read_records(path, None, "v1")
    assert len(str(error.value)) < 300


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path, starting_point):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(INSTRUCTIONS), encoding="utf-8-sig")
    assert len(read_records(path, starting_point / "images", "v1")) == len(INSTRUCTIONS)


def test_a_folder_or_a_binary_file_is_no_data(tmp_path):
    (tmp_path / "data.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "data.json"):
        with pytest.raises(InputError, match=f"cannot read the training data {path}"):
            read_records(path, None, "v1")


@pytest.mark.parametrize("version", ["plain", "v0_plain"])
def test_every_template_without_roles_trains_the_caption_alone(tmp_path, starting_point, version):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(CAPTIONS))
    turns = read_records(path, starting_point / "images", version)[0].turns
    assert turns == ((f"{IMAGE}\nWhat is it?", "a dog"),)
    text = f"{IMAGE}a dog\n"
    assert build_prompt(turns, version) == (text, [(len(IMAGE), len(text))])
    path.write_text(json.dumps(INSTRUCTIONS))
    with pytest.raises(InputError, match=f"version '{version}' takes one image and one caption"):
        read_records(path, starting_point / "images", version)
