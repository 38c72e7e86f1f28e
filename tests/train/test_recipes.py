"""The recipes of the two stages, as a user calls them."""

import json

import pytest
import torch

from llava.checkpoints.weight_files import read_weights
from tests.recipes import run_recipe
from tests.train.conftest import CAPTIONS, INSTRUCTIONS, ONE_STEP


@pytest.mark.slow
def test_both_stages_run_one_after_the_other_and_extra_options_come_last(recipe_settings, starting_point, tmp_path):
    settings = recipe_settings
    settings["DATA"].write_text(json.dumps(CAPTIONS))
    done = run_recipe("v1_5/pretrain.sh", *ONE_STEP, **settings, OUTPUT=tmp_path / "pretrain")
    assert done.returncode == 0, done.stderr
    projector = tmp_path / "pretrain" / "mm_projector.bin"

    settings["DATA"].write_text(json.dumps(INSTRUCTIONS))
    settings["PROJECTOR"] = projector
    done = run_recipe("v1_5/finetune.sh", *ONE_STEP, **settings, OUTPUT=tmp_path / "llava")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "llava" / "config.json").read_text())
    assert config["image_aspect_ratio"] == "pad"
    assert config["mm_vision_tower"] == str(starting_point / "clip")
    # One step at a rate of 2e-5 moves no weight by more: the projector is stage 1's, but for the rounding.
    weights = read_weights(tmp_path / "llava")
    for key, tensor in torch.load(projector).items():
        torch.testing.assert_close(weights[key].float(), tensor.float(), atol=3e-5, rtol=2**-8)

    projector.unlink()
    done = run_recipe("v1_5/finetune.sh", *ONE_STEP, **settings, OUTPUT=tmp_path / "other")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: cannot read weights from {projector}")

    settings |= {"PROJECTOR": "", "MODEL": tmp_path / "llava"}
    done = run_recipe("v1_5/finetune.sh", *ONE_STEP, **settings, OUTPUT=tmp_path / "further")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "further" / "config.json").exists()
    further = read_weights(tmp_path / "further")
    assert further.keys() == weights.keys()
    for key, tensor in weights.items():
        torch.testing.assert_close(further[key].float(), tensor.float(), atol=3e-5, rtol=2**-7)
