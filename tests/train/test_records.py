"""Training data: what is read from a record, and which records are refused with one line that names them."""

import json

import pytest

from llava.constants import DEFAULT_IMAGE_TOKEN as IMAGE
from llava.conversation import get_conversation
from llava.errors import InputError
from llava.train.labels import build_prompt
from llava.train.records import read_records
from tests.train.conftest import CAPTIONS, INSTRUCTIONS, conversation


def read(tmp_path, starting_point, rows, version: str = "v1"):
    path = tmp_path / "data.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return read_records(path, starting_point / "images", version)


def test_the_image_comes_first_in_its_question_wherever_the_data_has_it(tmp_path, starting_point):
    records = read(tmp_path, starting_point, INSTRUCTIONS)
    assert records[1].turns == ((f"{IMAGE}\nWhat is it?", "A cat, I think."),)
    assert records[4].turns[1] == (f"{IMAGE}\nWhat is it?", "A car")
    assert records[0].image == starting_point / "images" / "0.png"
    assert records[2].image is None


def test_a_question_may_be_the_image_alone(tmp_path, starting_point):
    row = {"id": "a", "image": "0.png", "conversations": conversation(IMAGE, "A dog")}
    assert read(tmp_path, starting_point, [row])[0].turns == ((IMAGE, "A dog"),)


GOOD = INSTRUCTIONS[0]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("{", "is not JSON"),
        ([], "at least one record"),
        ({"a": 1}, "at least one record"),
        ([GOOD, "text"], "record number 1 is not"),
        ([GOOD | {"id": 7, "image": "none.png"}], "record 7: no such image file: "),
        ("[" * 100_000, "nested too deeply"),
        (f'[{{"id": {"9" * 5000}}}]', "digits"),
        ([GOOD | {"image": "a" * 5000}], "record 'one': no such image file"),
        ([GOOD | {"image": "a\0b"}], "record 'one': no such image file"),
        ([GOOD | {"image": "\ud83d"}], "record 'one': no such image file"),
        ([GOOD | {"image": ["0.png"]}], "record 'one': its image is not one path"),
        ([GOOD | {"image": ["x" * 10_000]}], "its image is not one path"),
        ([GOOD | {"image": 1, "id": ["x" * 10_000]}], "its image is not one path"),
        ([GOOD | {"conversations": conversation(f"{IMAGE}\nA?", "half \ud83d")}], "turn 1 of its"),
        ([GOOD | {"conversations": []}], "record 'one': no conversations"),
        ([{"conversations": conversation("Hello")}], "record number 0: its conversation ends without an answer"),
        ([GOOD | {"conversations": conversation("a", "b")[::-1]}], "turn 0 of its conversation is not from 'human'"),
        ([GOOD | {"conversations": conversation("a", "b") * 2 + conversation("c", "d")[1:]}], "turn 4"),
        ([GOOD | {"conversations": conversation(f"{IMAGE} a", " \n")}], "turn 1 of its conversation is empty"),
        ([GOOD | {"conversations": conversation("a", "b")}], "record 'one': 0 <image> in its questions"),
        ([GOOD | {"conversations": conversation(f"{IMAGE}{IMAGE}", "b")}], "2 <image> in its questions"),
        ([{"id": 3, "conversations": conversation(f"{IMAGE}", "b")}], "record 3: 1 <image> in its questions"),
        ([GOOD | {"conversations": conversation(f"{IMAGE}", f"b {IMAGE}")}], "record 'one': <image> in an answer"),
        ([GOOD | {"system": "Answer in French."}], "record 'one': its own system text is not used"),
        ([GOOD | {"system": ["Be brief."]}], "record 'one': its own system text is not used"),
        ([GOOD | {"conversations": [{"from": "system", "value": "Be brief."}]}], "turn 0 of its conversation is not"),
    ],
)
def test_a_bad_record_is_named_in_one_short_line(tmp_path, starting_point, rows, named):
    with pytest.raises(InputError) as error:
        read(tmp_path, starting_point, rows)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 or "a" * 5000 in str(error.value)  # a path that is not there stands whole


def test_a_system_text_that_is_the_template_s_changes_nothing(tmp_path, starting_point):
    own = get_conversation("v1").system
    for system in (None, "", own):
        assert read(tmp_path, starting_point, [GOOD | {"system": system}]) == read(tmp_path, starting_point, [GOOD])
    with pytest.raises(InputError, match="system text"):
        read(tmp_path, starting_point, [GOOD | {"system": own}], "llava_llama_2")


def test_stage_1_takes_one_image_and_one_caption(tmp_path, starting_point):
    records = read(tmp_path, starting_point, CAPTIONS, "plain")
    assert len(records) == len(CAPTIONS)
    captions = [row["conversations"][1]["value"] for row in CAPTIONS]
    assert [record.turns for record in records] == [((f"{IMAGE}\nWhat is it?", caption),) for caption in captions]
    assert [record.image for record in records] == [starting_point / "images" / f"{i % 4}.png" for i in range(8)]
    for row in (INSTRUCTIONS[2], INSTRUCTIONS[3]):
        with pytest.raises(InputError, match=f"record '{row['id']}': version 'plain' takes one image"):
            read(tmp_path, starting_point, [row], "plain")


@pytest.mark.parametrize("version", ["plain", "v0_plain"])
def test_every_template_without_roles_trains_the_caption_alone(tmp_path, starting_point, version):
    turns = read(tmp_path, starting_point, CAPTIONS, version)[0].turns
    assert turns == ((f"{IMAGE}\nWhat is it?", "a dog"),)
    text = f"{IMAGE}a dog\n"
    assert build_prompt(turns, version) == (text, [(len(IMAGE), len(text))])
    with pytest.raises(InputError, match=f"version '{version}' takes one image and one caption"):
        read(tmp_path, starting_point, INSTRUCTIONS, version)


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path, starting_point):
    text = json.dumps(INSTRUCTIONS).encode("utf-8-sig").decode()
    assert len(read(tmp_path, starting_point, text)) == len(INSTRUCTIONS)


def test_what_is_no_file_of_data_is_named(tmp_path):
    (tmp_path / "data.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "data.json", tmp_path / "none.json"):
        with pytest.raises(InputError, match=f"cannot read the training data {path}"):
            read_records(path, None, "v1")
