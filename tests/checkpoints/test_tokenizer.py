"""Token ids: leading spaces, double spaces, special tokens, and back to text."""

import json

import pytest

from llava.checkpoints.tokenizer import load_tokenizer, tokenizer_image_token
from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import InputError
from tests.model.conftest import edit_json


@pytest.fixture(scope="module")
def tokenizer(checkpoints):
    return load_tokenizer(checkpoints())


def pieces(tokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)


@pytest.mark.parametrize(
    "text",
    ["the", " the", "the  image", "  two in front", "", " ", "tabs\tand\nlines\n", "héllo 😀", "a ▁ b", "x" * 50],
)
def test_text_survives_the_way_there_and_back(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("▁", " ")


def test_text_begins_with_a_space_and_every_further_space_counts(tokenizer):
    assert pieces(tokenizer, "the")[1].startswith("▁")
    assert "".join(pieces(tokenizer, "the  image")[1:]) == "▁the▁▁image"


def test_special_tokens_in_a_text_stay_whole_and_add_no_space(tokenizer):
    without_space = tokenizer.sp_model.encode("the", out_type=str)
    assert pieces(tokenizer, "the</s>the") == ["<s>", *pieces(tokenizer, "the")[1:], "</s>", *without_space]
    assert pieces(tokenizer, "</s>")[1:] == ["</s>"]


def test_a_legacy_tokenizer_puts_a_space_after_special_tokens_too(make_checkpoint):
    folder = make_checkpoint()
    edit_json(folder / "tokenizer_config.json", legacy=True)
    legacy = load_tokenizer(folder)
    the = pieces(legacy, "the")[1:]
    assert the[0].startswith("▁")
    assert pieces(legacy, "the</s>the") == ["<s>", *the, "</s>", *the]


def test_images_stand_between_the_chunks_with_one_bos(tokenizer):
    ids = tokenizer_image_token("<image>\nthe <image> dog", tokenizer)
    chunks = [tokenizer(chunk).input_ids[1:] for chunk in ("", "\nthe ", " dog")]
    assert ids == [tokenizer.bos_token_id, *chunks[0], IMAGE_TOKEN_INDEX, *chunks[1], IMAGE_TOKEN_INDEX, *chunks[2]]
    assert tokenizer_image_token("the", tokenizer, return_tensors="pt").tolist() == tokenizer("the").input_ids


def test_a_tokenizer_without_bos_loses_no_token(checkpoints):
    tokenizer = load_tokenizer(checkpoints("v1.5", "qwen"))
    ids = tokenizer_image_token("the <image> dog", tokenizer)
    assert tokenizer.decode(ids[: ids.index(IMAGE_TOKEN_INDEX)]) == "the "
    assert tokenizer.decode(ids[ids.index(IMAGE_TOKEN_INDEX) + 1 :]) == " dog"


def test_a_missing_or_broken_tokenizer_is_named(make_checkpoint, tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        load_tokenizer(tmp_path)
    folder = make_checkpoint()
    (folder / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(InputError, match="tokenizer"):
        load_tokenizer(folder)


def test_a_saved_tokenizer_gives_the_same_ids_and_names_the_published_class(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    text = "a  dog</s> in the image 😀"
    assert load_tokenizer(tmp_path)(text).input_ids == tokenizer(text).input_ids
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    expected = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False}
    assert {key: settings[key] for key in expected} == expected
    special = json.loads((tmp_path / "special_tokens_map.json").read_text())
    assert special == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
