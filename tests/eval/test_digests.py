"""What decides an answer: changed in any of it, a run does not go on from the answers there are."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llava.errors import InputError
from llava.eval import digests, model_vqa_loader
from llava.eval.digests import digest_files
from llava.eval.options import AskingOptions, ModelOptions
from llava.eval.questions import Question
from tests.conftest import picture
from tests.eval.conftest import assert_one_line

ASKING = AskingOptions({"num_beams": 1, "max_new_tokens": 3})


def flip_byte_in_the_middle(file: Path) -> None:
    """Change a byte and keep size and time of change, as far as the system lets one."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def made(make_checkpoint, tmp_path):
    """Options of a checkpoint of its own, and a question on a picture."""
    folder = make_checkpoint()
    picture().save(tmp_path / "image.bmp")
    question = Question(1, "What?", tmp_path / "image.bmp", "What?")
    return ModelOptions(str(folder), device="cpu"), question


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_every_file_of_checkpoint_and_tower_counts(made):
    options, question = made
    tower = json.loads((Path(options.model_path) / "config.json").read_text())["mm_vision_tower"]
    folders = {Path(options.model_path), Path(options.model_path, tower)}
    before = options.settings(ASKING, [question])
    assert options.settings(ASKING, [question]) == before
    changed = set()
    for file in {file for folder in folders for file in files_of(folder)}:
        content = file.read_bytes()
        if file.name == "config.json":  # it must stay JSON
            file.write_bytes(content + b" ")
        else:
            flip_byte_in_the_middle(file)
        after = options.settings(ASKING, [question])
        assert {name for name in after if after[name] != before[name]} == {"checkpoint"}, file
        changed.add(file.name)
        file.write_bytes(content)
    assert {"preprocessor_config.json", "generation_config.json"} <= changed
    assert any(name.endswith((".safetensors", ".bin")) for name in changed)
    assert any("token" in name for name in changed)
    assert options.settings(ASKING, [question]) == before


@pytest.mark.parametrize(
    "name", ["preprocessor_config.json", "generation_config.json", "added_tokens.json", "vocab.txt"]
)
def test_a_file_that_is_added_counts(made, name):
    options, question = made
    before = options.settings(ASKING, [question])
    (Path(options.model_path) / name).write_text("{}\n")
    assert options.settings(ASKING, [question])["checkpoint"] != before["checkpoint"]


def test_a_changed_picture_and_another_dtype_count(made, monkeypatch):
    options, question = made
    before = options.settings(ASKING, [question])
    flip_byte_in_the_middle(question.image)
    assert options.settings(ASKING, [question])["images"] != before["images"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_gpu = replace(options, device="cuda:0")
    assert (before["dtype"], on_gpu.settings(ASKING, [question])["dtype"]) == ("float32", "float16")


def test_the_command_refuses_answers_about_a_picture_that_was_changed(call, ask, tmp_path):
    options = [*ask, "--answers-file", tmp_path / "a.jsonl"]
    assert call(model_vqa_loader, *options)[0] == 0
    flip_byte_in_the_middle(tmp_path / "images" / "3.png")
    assert_one_line(call(model_vqa_loader, *options), "images '")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(digests, "SETTLED", 0)
    return tmp_path / "cache" / "digests.json"


def test_a_file_is_read_once_while_it_stays_as_it_is(tmp_path, cache, monkeypatch):
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text(file.name)
    time.sleep(0.02)
    first = digest_files(files, cache)
    with monkeypatch.context() as patched:
        patched.setattr(digests, "_digest_file", None)
        assert digest_files(files, cache) == first
    flip_byte_in_the_middle(files[0])
    second = digest_files(files, cache)
    assert second[0] != first[0]
    assert second[1] == first[1]


def test_a_file_that_was_changed_a_moment_ago_is_read_again(tmp_path):
    file, cache = tmp_path / "a", tmp_path / "cache.json"
    file.write_text("one")
    digest_files([file], cache)
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"%s": 7}', '{"%s": [1]}', '{"%s": {"a": 1}}', "\0"])
def test_a_broken_cache_is_none(tmp_path, cache, content):
    file = tmp_path / "a"
    file.write_text("one")
    cache.parent.mkdir()
    expected = digest_files([file], cache)
    cache.write_text(content.replace("%s", str(file)))
    assert digest_files([file], cache) == expected
    cache.unlink()
    cache.mkdir()  # it cannot be written
    assert digest_files([file], cache) == expected


def test_a_pipe_is_named_rather_than_waited_for(tmp_path, cache):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: it is no regular file"):
        digest_files([tmp_path / "pipe"], cache)
    with pytest.raises(InputError, match=r"cannot read no\0.png"):
        digest_files([Path("no\0.png")], cache)
