"""A tiny language model to start from, conversations about pictures to train it on, and what its tests share."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from llava.checkpoints.weight_files import read_weights
from llava.constants import DEFAULT_IMAGE_TOKEN as IMAGE
from llava.train.train import train
from tests.conftest import load_script, picture
from tests.recipes import run_python

PROJECTOR = {f"model.mm_projector.{name}" for name in ("0.bias", "0.weight", "2.bias", "2.weight")}


@pytest.fixture(scope="session")
def starting_point(tmp_path_factory) -> Path:
    """A folder with `vicuna`, `clip` and `images`."""
    folder, maker = tmp_path_factory.mktemp("start"), load_script("make_random_checkpoint")
    torch.manual_seed(1)
    maker.write_clip(folder / "clip")
    (folder / "vicuna").mkdir()
    values = maker.LANGUAGE_MODEL | maker.write_llama_tokenizer(folder / "vicuna")
    model = LlamaForCausalLM(LlamaConfig(**values))
    save_file(model.state_dict(), folder / "vicuna" / "model.safetensors")
    maker.write_json(folder / "vicuna" / "config.json", values | {"model_type": "llama"})
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}
    maker.write_json(folder / "vicuna" / "generation_config.json", generation)
    (folder / "images").mkdir()
    for seed in range(4):
        picture(120, 90, seed).save(folder / "images" / f"{seed}.png")
    return folder


def conversation(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


CAPTIONS = [
    {"id": f"c{i}", "image": f"{i % 4}.png", "conversations": conversation(f"{IMAGE}\nWhat is it?", f"a {word}")}
    for i, word in enumerate(("dog", "cat", "car", "white house", "boat", "tree", "big dog", "cup"))
]
INSTRUCTIONS = [
    {"id": "one", "image": "0.png", "conversations": conversation(f"{IMAGE}\nIs there a dog?", "Yes")},
    {"id": "last", "image": "1.png", "conversations": conversation(f"What is it?\n{IMAGE}", "A cat, I think.")},
    {"id": "text", "conversations": conversation("Name a colour.", "Red", "And another?", "Blue")},
    {
        "id": "turns",
        "image": "2.png",
        "conversations": conversation(
            f"{IMAGE}\nWhich animal?", "A dog", "And the colour?", "White, as a rule", "Sure?", "No"
        ),
    },
    {"id": "later", "image": "3.png", "conversations": conversation("Hello", "Hi", f"{IMAGE}\nWhat is it?", "A car")},
    {"id": "text2", "conversations": conversation("Say yes.", "Yes")},
    {"id": "long", "image": "0.png", "conversations": conversation(f"{IMAGE}\nDescribe it.", "It is an image. " * 6)},
    {"id": "short", "image": "1.png", "conversations": conversation(f"{IMAGE}\nOne word.", "No")},
]


@pytest.fixture
def command(starting_point, tmp_path):
    """The options of a training on the CPU: command("stage1", data=records, learning_rate=0.1)."""

    def get(stage: str, name: str = "out", data: list | None = None, **options) -> list[str]:
        path = tmp_path / f"{stage}.json"
        path.write_text(json.dumps((CAPTIONS if stage == "stage1" else INSTRUCTIONS) if data is None else data))
        of_stage = {
            "stage1": {"tune_mm_mlp_adapter": True, "version": "plain", "learning_rate": 0.01},
            "stage2": {"version": "v1", "learning_rate": 0.003},
        }
        values = {
            "model_name_or_path": starting_point / "vicuna",
            "vision_tower": starting_point / "clip",
            "data_path": path,
            "image_folder": starting_point / "images",
            "output_dir": tmp_path / name,
            "mm_projector_type": "mlp2x_gelu",
            "image_aspect_ratio": "pad",
            "model_max_length": 512,
            "per_device_train_batch_size": 4,
            "max_steps": 6,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.1,
            "save_strategy": "steps",
            "save_steps": 2,
            "logging_steps": 1,
            "save_dtype": "float32",
            "disable_tqdm": True,
        }
        values |= of_stage[stage] | options
        return [part for key, value in values.items() for part in (f"--{key}", str(value))]

    return get


class Losses(TrainerCallback):
    """Records the loss of every step, or another of its figures."""

    def __init__(self, figure: str = "loss"):
        self.figure, self.values = figure, []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.values.append(logs[self.figure])


class Stop(TrainerCallback):
    """Stops a run after a step, like a kill: the step is saved only if a checkpoint was due."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.fixture
def recipe_settings(starting_point, tmp_path) -> dict:
    """What the recipes of both stages are told on the CPU; DATA has the instructions."""
    (tmp_path / "data.json").write_text(json.dumps(INSTRUCTIONS))
    return {
        "MODEL": starting_point / "vicuna",
        "VISION_TOWER": starting_point / "clip",
        "IMAGES": starting_point / "images",
        "DATA": tmp_path / "data.json",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


ONE_STEP = ("--max_steps", 1, "--gradient_accumulation_steps", 1, "--dataloader_num_workers", 0)


def output_dir(command: list[str]) -> Path:
    return Path(command[command.index("--output_dir") + 1])


def trained(options: list[str]) -> Path:
    """Train with these options: the folder that was written."""
    train(options)
    return output_dir(options)


def run_module(*args: str, **environment: str) -> subprocess.CompletedProcess:
    return run_python("-m", *args, **{"CUDA_VISIBLE_DEVICES": ""} | environment)


def weights_of(stage: str, folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "mm_projector.bin") if stage == "stage1" else read_weights(folder)


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
