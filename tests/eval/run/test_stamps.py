"""What decides an answer: changed in any of it, a run does not go on from the answers there are."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llava.errors import InputError
from llava.eval import model_vqa_loader
from llava.eval.benchmarks.questions import Question
from llava.eval.run import settings, stamps
from llava.eval.run.settings import Decisive
from llava.eval.run.stamps import digest_files, stamp_files
from llava.inference.options import AskingOptions, ModelOptions
from llava.pruning import Settings
from tests.conftest import picture
from tests.eval.conftest import METHOD, assert_one_line

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


def settings_of(options: ModelOptions, question: Question, known: dict | None = None) -> dict:
    """What decides the answer, less the stamps of files."""
    found = Decisive(options, ASKING, "llava_v1", [question]).settings(Settings(), known)
    return {name: value for name, value in found.items() if name != settings.STAMPS}


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_every_file_of_checkpoint_and_tower_counts(made):
    options, question = made
    tower = json.loads((Path(options.model_path) / "config.json").read_text())["mm_vision_tower"]
    folders = {Path(options.model_path), Path(options.model_path, tower)}
    before = settings_of(options, question)
    assert settings_of(options, question) == before
    changed = set()
    for file in {file for folder in folders for file in files_of(folder)}:
        content = file.read_bytes()
        if file.name == "config.json":  # it must stay JSON
            file.write_bytes(content + b" ")
        else:
            flip_byte_in_the_middle(file)
        after = settings_of(options, question)
        assert {name for name in after if after[name] != before[name]} == {"checkpoint"}, file
        changed.add(file.name)
        file.write_bytes(content)
    assert {"preprocessor_config.json", "generation_config.json"} <= changed
    assert any(name.endswith((".safetensors", ".bin")) for name in changed)
    assert any("token" in name for name in changed)
    assert settings_of(options, question) == before


@pytest.mark.parametrize(
    "name", ["preprocessor_config.json", "generation_config.json", "added_tokens.json", "vocab.txt"]
)
def test_a_file_that_is_added_counts(made, name):
    options, question = made
    before = settings_of(options, question)
    (Path(options.model_path) / name).write_text("{}\n")
    assert settings_of(options, question)["checkpoint"] != before["checkpoint"]


def test_a_changed_picture_and_another_dtype_count(made, monkeypatch):
    options, question = made
    before = settings_of(options, question)
    flip_byte_in_the_middle(question.image)
    assert settings_of(options, question)["images"] != before["images"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_gpu = replace(options, device="cuda:0")
    assert (before["dtype"], settings_of(on_gpu, question)["dtype"]) == ("float32", "float16")


@pytest.fixture
def answered(call, ask, make_checkpoint, tmp_path) -> list:
    """Options of a run that is complete, with a checkpoint and a method of its own."""
    (tmp_path / "mine.py").write_text(METHOD)
    options = [*ask, "--model-path", make_checkpoint(), "--pruning_method", tmp_path / "mine.py"]
    options += ["--answers-file", tmp_path / "a.jsonl"]
    assert call(model_vqa_loader, *options)[0] == 0
    return options


def test_contents_are_read_again_only_where_a_stamp_differs(call, answered, tmp_path, monkeypatch):
    read, digest = [], stamps._digest_file
    monkeypatch.setattr(stamps, "_digest_file", lambda file, state: read.append(file) or digest(file, state))
    assert call(model_vqa_loader, *answered)[0] == 0
    assert read == []
    picture = tmp_path / "images" / "3.png"
    os.utime(picture, (0, 0))  # as on another machine
    before = json.loads((tmp_path / "a.settings.json").read_text())
    assert call(model_vqa_loader, *answered)[0] == 0
    assert picture in read
    after = json.loads((tmp_path / "a.settings.json").read_text())
    assert {name for name in after if after[name] != before[name]} == {"stamps"}
    read.clear()
    assert call(model_vqa_loader, *answered)[0] == 0
    assert read == []


@pytest.mark.parametrize("changed", ["weights", "tower", "picture", "method"])
def test_a_byte_that_changed_is_noticed_and_a_copy_is_not(call, answered, tmp_path, changed):
    checkpoint = Path(answered[answered.index("--pruning_method") - 1])
    tower = json.loads((checkpoint / "config.json").read_text())["mm_vision_tower"]
    file = {
        "weights": next(file for file in files_of(checkpoint) if file.suffix in (".bin", ".safetensors")),
        "tower": next(file for file in files_of(checkpoint / tower) if file.suffix in (".bin", ".safetensors")),
        "picture": tmp_path / "images" / "3.png",
        "method": tmp_path / "mine.py",
    }[changed]
    copy = tmp_path / "copy"
    copy.write_bytes(file.read_bytes())
    copy.replace(file)
    assert call(model_vqa_loader, *answered)[0] == 0
    flip_byte_in_the_middle(file)
    named = {"weights": "checkpoint", "tower": "checkpoint", "picture": "images", "method": "pruning_file"}[changed]
    assert_one_line(call(model_vqa_loader, *answered), f"{named} '")


def test_settings_of_a_run_begun_before_there_were_stamps_go_on_or_are_refused(call, answered, tmp_path):
    file = tmp_path / "a.settings.json"
    old = json.loads(file.read_text())
    del old["stamps"]
    file.write_text(json.dumps(old))
    assert call(model_vqa_loader, *answered)[0] == 0
    assert "stamps" in json.loads(file.read_text())
    file.write_text(json.dumps(old))
    flip_byte_in_the_middle(tmp_path / "images" / "3.png")
    assert_one_line(call(model_vqa_loader, *answered), "images '")
    assert json.loads(file.read_text()) == old


@pytest.mark.parametrize("broken", [7, {"checkpoint": 7}, {"images": ["x"]}])
def test_stamps_that_are_none_say_nothing(call, answered, tmp_path, broken):
    file = tmp_path / "a.settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"stamps": broken}))
    assert call(model_vqa_loader, *answered)[0] == 0


def test_files_of_one_name_size_and_time_in_two_folders_are_two(tmp_path, monkeypatch):
    files, stat = [tmp_path / folder / "a.png" for folder in "ab"], Path.stat
    for file in files:
        file.parent.mkdir()
        file.write_bytes(file.parent.name.encode())

    def at_one_time(file: Path, **options) -> SimpleNamespace:
        status = stat(file, **options)
        same = {"st_mtime_ns": 1, "st_ctime_ns": 1}
        return SimpleNamespace(st_mode=status.st_mode, st_size=status.st_size, st_ino=status.st_ino, **same)

    monkeypatch.setattr(Path, "stat", at_one_time)
    assert len({stamp_files([file]) for file in files}) == len(set(digest_files(files))) == 2


def test_a_pipe_is_named_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for work in (digest_files, stamp_files):
        with pytest.raises(InputError, match="pipe: it is no regular file"):
            work([tmp_path / "pipe"])
        with pytest.raises(InputError, match=r"cannot read no\0.png"):
            work([Path("no\0.png")])
