"""What training refuses, in one line that names the cause."""

import json
import shutil

import pytest
import torch
from PIL import Image

from llava.errors import InputError
from llava.train.train import train
from tests.conftest import IMAGE
from tests.train.conftest import INSTRUCTIONS, conversation, run_module

LONG = [
    {"id": "text", "conversations": conversation("word " * 300, "Yes")},
    {"id": "picture", "image": "0.png", "conversations": conversation(f"{IMAGE}\n" + "word " * 40, "Yes")},
]


@pytest.mark.slow
def test_the_command_ends_with_one_line_and_code_2_for_bad_input(command):
    done = run_module("llava.train.train", *command("stage2", data=[INSTRUCTIONS[0] | {"image": "none.png"}]))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: record 'one': no such image file")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("stage", "options", "named"),
    [
        ("stage2", {"data": []}, "at least one record"),
        ("stage2", {"data": [INSTRUCTIONS[0] | {"image": "none.png"}]}, "record 'one': no such image file"),
        ("stage1", {"data": INSTRUCTIONS}, "version 'plain' takes one image"),
        ("stage2", {"model_name_or_path": "/none"}, "no such language model folder: /none"),
        ("stage2", {"vision_tower": "/none"}, "no such vision tower folder: /none"),
        ("stage2", {"pretrain_mm_mlp_adapter": "/none.bin"}, "cannot read weights from /none.bin"),
        ("stage2", {"mm_projector_type": "tree"}, "unknown mm_projector_type 'tree'"),
        ("stage2", {"version": "v7"}, "unknown --version 'v7'"),
        ("stage2", {"mm_use_im_start_end": True}, "not supported"),
        ("stage2", {"model_max_length": 100}, "no room for an image of 144 tokens"),
        ("stage2", {"data": LONG, "model_max_length": 160}, "within model_max_length 160 no record has an answer"),
        ("stage2", {"image_aspect_ratio": "round"}, "unknown image_aspect_ratio 'round'"),
        ("stage2", {"image_aspect_ratio": "anyres", "image_grid_pinpoints": "3"}, "image_grid_pinpoints must be"),
        ("stage2", {"save_dtype": "int8"}, "unknown --save_dtype 'int8'"),
        ("stage2", {"nonsense": 1}, "nonsense"),
        ("stage2", {"freeze_backbone": True, "tune_mm_mlp_adapter": True, "freeze_mm_mlp_adapter": True}, "forbids"),
    ],
)
def test_bad_input_is_one_line_before_the_language_model_is_loaded(command, monkeypatch, stage, options, named):
    monkeypatch.setattr("llava.train.build.TrainingPlan.build", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError) as error:
        train(command(stage, **options))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_one_record_with_an_answer_is_something_to_learn(command, monkeypatch):
    monkeypatch.setattr("llava.train.build.TrainingPlan.build", lambda *_: (_ for _ in ()).throw(KeyError("built")))
    with pytest.raises(KeyError, match="built"):
        train(command("stage2", data=[*LONG, INSTRUCTIONS[2]], model_max_length=160))


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300, "result"])
def test_a_place_that_cannot_be_written_is_named_before_the_data_is_read(command, tmp_path, place):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "result" / "config.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot (write|read)"):
        train(command("stage2", name=place, data_path="/none.json"))
    assert (tmp_path / "file").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "result", "stage2.json"}


def test_a_projector_of_another_shape_is_refused(command, tmp_path):
    path = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(InputError, match="does not fit"):
        train(command("stage2", pretrain_mm_mlp_adapter=path))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "neither llama nor mistral nor a LLaVA"),
        ({"unfreeze_mm_vision_tower": True}, "a vision tower of its own"),
    ],
)
def test_a_model_that_cannot_be_started_from_is_named(command, starting_point, tmp_path, change, named):
    folder = tmp_path / "start"
    shutil.copytree(starting_point / "vicuna", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=named):
        train(command("stage2", model_name_or_path=folder))


@pytest.mark.parametrize(("size", "named"), [((1, 70_000), "cannot read the image"), ((2, 40_000), "2 x 40000 pixels")])
def test_a_picture_that_is_too_long_is_named_with_its_record(command, tmp_path, size, named):
    Image.new("RGB", size).save(tmp_path / "long.png")
    row = {"id": "long", "image": "long.png", "conversations": conversation(f"{IMAGE}\nWhat?", "Yes")}
    with pytest.raises(InputError) as error:
        train(command("stage2", data=[row], image_folder=tmp_path, image_aspect_ratio="square"))
    assert str(error.value).startswith(f"record 'long': {named}")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_decoded_is_named_with_its_record(command, tmp_path, workers):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    row = {"id": "bad", "image": "bad.png", "conversations": conversation(f"{IMAGE}\nWhat?", "Yes")}
    with pytest.raises(InputError) as error:
        train(command("stage2", data=[row], image_folder=tmp_path, dataloader_num_workers=workers))
    assert str(error.value).startswith("record 'bad': cannot read the image")
