"""Both stages from the command line's options: what is trained, what is written, and that a resumed run is the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import read_weights
from llava.train.train import train
from llava.utils import InputError
from tests.conftest import IMAGE, ROOT, load, picture
from tests.train.conftest import CAPTIONS, INSTRUCTIONS, conversation

PROJECTOR = {f"model.mm_projector.{name}" for name in ("0.bias", "0.weight", "2.bias", "2.weight")}


class Losses(TrainerCallback):
    """Notes the loss of every step."""

    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.values.append(logs["loss"])


class Stop(TrainerCallback):
    """Ends a run after a step, as if it had been killed: nothing is saved at that step unless it was due."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def output_dir(command: list[str]) -> Path:
    return Path(command[command.index("--output_dir") + 1])


def weights_of(stage: str, folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "mm_projector.bin") if stage == "stage1" else read_weights(folder)


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_loss_falls(command, stage, bf16):
    losses = Losses()
    train(command(stage, max_steps=30, save_strategy="no", bf16=bf16), [losses])
    assert losses.values[0] > 6
    assert losses.values[-1] < {"stage1": 0.95, "stage2": 0.7}[stage] * losses.values[0]


def test_stage_1_writes_the_projector_alone_and_it_loads_onto_its_language_model(command, starting_point):
    options = command("stage1", max_steps=2)
    train(options)
    folder = output_dir(options)
    projector = torch.load(folder / "mm_projector.bin")
    assert projector.keys() == PROJECTOR
    assert not list(folder.glob("*.safetensors"))
    held = load_file(folder / "checkpoint-2" / "model.safetensors")
    assert_equal(held, projector)
    _, model, _, _ = load_pretrained_model(str(folder), str(starting_point / "vicuna"), "stage1", device="cpu")
    assert_equal({f"model.mm_projector.{k}": v for k, v in model.model.mm_projector.state_dict().items()}, projector)


def test_stage_2_starts_from_the_projector_and_leaves_the_tower_alone(command, starting_point):
    first = command("stage1", "first", max_steps=2)
    train(first)
    adapter = output_dir(first) / "mm_projector.bin"
    options = command("stage2", max_steps=1, learning_rate=0, pretrain_mm_mlp_adapter=adapter)
    train(options)
    weights = read_weights(output_dir(options))
    untrained = read_weights(starting_point / "vicuna") | torch.load(adapter)
    tower = {f"model.vision_tower.vision_tower.{k}": v for k, v in read_weights(starting_point / "clip").items()}
    assert_equal(weights, {key: tensor.float() for key, tensor in (untrained | tower).items()})

    options = command("stage2", "trained", max_steps=2, pretrain_mm_mlp_adapter=adapter)
    train(options)
    trained = read_weights(output_dir(options))
    unchanged = {key for key in weights if torch.equal(weights[key], trained[key])}
    assert unchanged == set(tower)


def test_the_projector_may_have_its_own_learning_rate(command, starting_point):
    options = command("stage2", max_steps=2, learning_rate=0, mm_projector_lr=0.01)
    train(options)
    weights, before = read_weights(output_dir(options)), read_weights(starting_point / "vicuna")
    assert all(torch.equal(weights[key], before[key]) for key in before)
    again = command("stage2", "zero", max_steps=1, learning_rate=0)
    train(again)
    key = "model.mm_projector.0.weight"
    assert not torch.equal(weights[key], read_weights(output_dir(again))[key])


def test_muon_trains_the_matrices_and_the_other_optimizer_the_rest(command, starting_point):
    before = read_weights(starting_point / "vicuna")
    embeddings = {"model.embed_tokens.weight", "lm_head.weight"}
    matrices = {key for key, weight in before.items() if weight.ndim == 2} - embeddings
    for name, rates, trained in (
        ("muon", {"learning_rate": 0, "muon_learning_rate": 0.01}, matrices),
        ("rest", {"learning_rate": 0.01, "muon_learning_rate": 0}, before.keys() - matrices),
    ):
        options = command("stage2", name, max_steps=2, **rates)
        train(options)
        weights = read_weights(output_dir(options))
        assert {key for key in before if not torch.equal(weights[key], before[key])} == trained


def test_muon_leaves_a_projector_with_its_own_learning_rate_alone(command):
    folders = []
    for name, projector_lr in (("a", 0), ("b", 0.01)):
        options = command("stage2", name, max_steps=2, muon_learning_rate=0.01, mm_projector_lr=projector_lr)
        train(options)
        folders.append(read_weights(output_dir(options)))
    start, moved = folders
    assert {key for key in start if not torch.equal(start[key], moved[key])} == PROJECTOR


@pytest.mark.parametrize(("stage", "stop"), [("stage1", 3), ("stage2", 3), ("stage2", 2), ("stage2", 5)])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(command, stage, stop):
    """Two steps an epoch, a checkpoint every 2: stops inside and at the end of an epoch, at and after a checkpoint."""
    options = {
        **({"muon_learning_rate": 0.01} if stop == 2 else {}),
        "group_by_modality_length": stop == 5,
        "dataloader_num_workers": int(stop == 2),
        "save_steps": 1 if stop == 3 else 2,
        "save_total_limit": 2,
    }
    whole, parted = command(stage, "whole", **options), command(stage, "parted", **options)
    losses, first, second = Losses(), Losses(), Losses()
    train(whole, [losses])
    train(parted, [Stop(stop), first])
    assert not (output_dir(parted) / "config.json").exists()
    train(parted, [second])
    resumed_at = stop if stop == 3 else stop // 2 * 2
    assert losses.values == first.values[:resumed_at] + second.values
    assert_equal(weights_of(stage, output_dir(whole)), weights_of(stage, output_dir(parted)))
    assert len(list(output_dir(whole).glob("checkpoint-*"))) == 2


def test_a_half_written_checkpoint_is_not_resumed_from(command, caplog):
    whole, parted = command("stage1", "whole"), command("stage1", "parted")
    train(whole)
    train(parted, [Stop(4)])
    unfinished = output_dir(parted) / "unfinished" / "checkpoint-6"
    (output_dir(parted) / "checkpoint-4").rename(output_dir(parted) / "held")
    unfinished.parent.mkdir()
    (output_dir(parted) / "held").rename(unfinished)
    (unfinished / "optimizer.pt").write_bytes(b"PK")
    with caplog.at_level("INFO", "llava"):
        train(parted)
    assert "going on from" in caplog.text
    assert "checkpoint-2" in caplog.text
    assert not unfinished.parent.exists()
    assert_equal(weights_of("stage1", output_dir(whole)), weights_of("stage1", output_dir(parted)))


def test_a_finished_training_is_not_repeated(command, caplog):
    options = command("stage1", max_steps=1)
    train(options)
    before = (output_dir(options) / "mm_projector.bin").stat().st_mtime_ns
    losses = Losses()
    train(options, [losses])
    assert losses.values == []
    assert "is finished" in caplog.text
    assert (output_dir(options) / "mm_projector.bin").stat().st_mtime_ns == before


def test_a_run_that_lacks_only_its_result_writes_it_without_another_step(command):
    """3 steps are one and a half epochs, which Trainer by itself would go on from."""
    options = command("stage2", max_steps=3)
    train(options)
    weights = read_weights(output_dir(options))
    (output_dir(options) / "config.json").unlink()
    (output_dir(options) / "model.safetensors").unlink()
    losses = Losses()
    train(options, [losses])
    assert losses.values == []
    assert_equal(read_weights(output_dir(options)), weights)


def test_the_written_checkpoint_is_laid_out_as_the_published_and_answers_as_the_trained_model(
    command, reference, starting_point
):
    options = command("stage2", max_steps=2, save_dtype="float16", save_steps=2)
    train(options)
    folder, published = output_dir(options), reference / "llava-v1.5" / "llava-v1.5-tiny"
    assert {path.name for path in folder.iterdir() if path.is_file()} - {"trainer_state.json"} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    weights = read_weights(folder)
    assert weights.keys() == {key for key in read_weights(published) if "inv_freq" not in key}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    config, expected = (json.loads((path / "config.json").read_text()) for path in (folder, published))
    assert config.keys() == expected.keys() - {"tokenizer_class"}
    same = ("model_type", "architectures", "torch_dtype", "rope_scaling", "pad_token_id", "tokenizer_padding_side")
    assert {key: config[key] for key in same} == {key: expected[key] for key in same}
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer_config["tokenizer_class"] == "LlamaTokenizer"

    tokenizer, model, image_processor, context = load(folder)
    assert context == 4096
    pixels = process_images([picture()], image_processor, model.config)
    ids = tokenizer_image_token(f"USER: {IMAGE}\nA dog? ASSISTANT:", tokenizer, return_tensors="pt").unsqueeze(0)
    logits = model(ids, images=pixels).logits
    trained = load_file(folder / "checkpoint-2" / "model.safetensors")
    others = model.load_state_dict({key: tensor.half().float() for key, tensor in trained.items()}, strict=False)
    assert others.unexpected_keys == []
    assert {key.split(".")[1] for key in others.missing_keys} == {"vision_tower"}
    assert torch.equal(model(ids, images=pixels).logits, logits)


@pytest.mark.parametrize(
    "options",
    [{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}],
)
def test_accumulation_and_checkpointing_change_nothing_but_the_rounding(command, options):
    plain, other = command("stage2", "plain", max_steps=3), command("stage2", "other", max_steps=3, **options)
    train(plain)
    train(other)
    a, b = (read_weights(output_dir(each)) for each in (plain, other))
    assert max((a[key] - b[key]).abs().max() for key in a) < 3e-4  # 10 % of a step


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"freeze_backbone": True}, {"lm_head.weight", *PROJECTOR}),
        ({"freeze_backbone": True, "freeze_mm_mlp_adapter": True}, {"lm_head.weight"}),
    ],
)
def test_what_is_frozen_stays_as_it_is(command, options, trained):
    options = command("stage2", max_steps=1, save_steps=1, learning_rate=0.01, warmup_ratio=0, **options)
    train(options)
    assert load_file(output_dir(options) / "checkpoint-1" / "model.safetensors").keys() == trained
    before = command("stage2", "before", max_steps=1, learning_rate=0)
    train(before)
    a, b = (read_weights(output_dir(each)) for each in (before, options))
    assert {key for key in a if not torch.equal(a[key], b[key])} == trained


def test_pictures_in_crops_are_trained_with_their_newline(command):
    crops = {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": "[[168, 336], [336, 168]]",
        "mm_patch_merge_type": "spatial_unpad",
    }
    first = command("stage1", "first", max_steps=2, **crops)
    train(first)
    adapter = output_dir(first) / "mm_projector.bin"
    assert torch.load(adapter).keys() == {*PROJECTOR, "model.image_newline"}
    options = command("stage2", max_steps=2, model_max_length=1024, pretrain_mm_mlp_adapter=adapter, **crops)
    train(options)
    _, model, _, _ = load(output_dir(options))
    assert model.config.image_grid_pinpoints == [[168, 336], [336, 168]]
    assert not torch.equal(model.model.image_newline, torch.load(adapter)["model.image_newline"])


def test_two_processes_train_as_one_with_the_batch_of_both(command):
    one = command("stage2", "one", max_steps=3)
    train(one)
    two = command("stage2", "two", max_steps=3, per_device_train_batch_size=2)
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m"]
    done = run_module(*launch, "llava.train.train", *two, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    a, b = (read_weights(output_dir(each)) for each in (one, two))
    assert max((a[key] - b[key]).abs().max() for key in a) < 3e-4
    assert (output_dir(two) / "checkpoint-2" / "rng_state_1.pth").exists()


def test_the_command_ends_with_one_line_and_code_2_for_bad_input(command):
    done = run_module("llava.train.train", *command("stage2", data=[INSTRUCTIONS[0] | {"image": "none.png"}]))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: record 'one': no such image file")
    assert "Traceback" not in done.stderr


def run_module(*args: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *args],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


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
        ("stage2", {"image_aspect_ratio": "round"}, "unknown image_aspect_ratio 'round'"),
        ("stage2", {"image_aspect_ratio": "anyres", "image_grid_pinpoints": "3"}, "image_grid_pinpoints must be"),
        ("stage2", {"save_dtype": "int8"}, "unknown --save_dtype 'int8'"),
        ("stage2", {"nonsense": 1}, "nonsense"),
        ("stage2", {"freeze_backbone": True, "tune_mm_mlp_adapter": True, "freeze_mm_mlp_adapter": True}, "forbids"),
    ],
)
def test_bad_input_is_one_line_before_the_language_model_is_loaded(command, monkeypatch, stage, options, named):
    monkeypatch.setattr("llava.train.build.Blueprint.build", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError) as error:
        train(command(stage, **options))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_projector_of_another_shape_is_refused(command, tmp_path):
    path = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(InputError, match="does not fit"):
        train(command("stage2", pretrain_mm_mlp_adapter=path))


def test_a_llava_checkpoint_is_trained_on_with_its_own_projector(command, tmp_path):
    first = command("stage2", "first", max_steps=2)
    train(first)
    again = command("stage2", "again", max_steps=1, learning_rate=0, model_name_or_path=output_dir(first))
    train(again)
    assert_equal(read_weights(output_dir(again)), read_weights(output_dir(first)))


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


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_decoded_is_named_with_its_record(command, tmp_path, workers):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    row = {"id": "bad", "image": "bad.png", "conversations": conversation(f"{IMAGE}\nWhat?", "Yes")}
    with pytest.raises(InputError) as error:
        train(command("stage2", data=[row], image_folder=tmp_path, dataloader_num_workers=workers))
    assert str(error.value).startswith("record 'bad': cannot read the image")


def test_conversations_that_are_too_long_are_cut_and_counted(command, caplog):
    long = [CAPTIONS[0] | {"conversations": conversation(f"{IMAGE}\nA?", "word " * 300)}]
    rows = [row | {"conversations": conversation(f"{IMAGE}\nA?", "Yes")} for row in CAPTIONS[:3]] + long
    losses = Counts()
    train(command("stage2", data=rows, max_steps=2, model_max_length=256), [losses])
    assert losses.values == [1, 2]
    assert "model_max_length 256" in caplog.text


class Counts(TrainerCallback):
    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.values.append(logs["samples_cut"])
