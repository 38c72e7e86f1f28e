"""Training that was interrupted or is finished: what another run of the same command does."""

import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from llava.checkpoints.weight_files import read_weights
from llava.errors import InputError
from llava.train.train import train
from tests.eval.run.runs import processes_of, start, wait_for
from tests.train.conftest import INSTRUCTIONS, Losses, Stop, assert_equal, output_dir, weights_of


@pytest.mark.parametrize(
    ("stage", "stop"),
    [
        ("stage1", 3),
        ("stage2", 5),
        pytest.param("stage2", 3, marks=pytest.mark.slow),
        pytest.param("stage2", 2, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(command, stage, stop):
    """Two steps an epoch, a checkpoint every 2: stops inside and at the end of an epoch, at and after a checkpoint."""
    options = {
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


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_nan(path) -> None:
    weights = load_file(path)
    name = min(weights)
    save_file(weights | {name: torch.full_like(weights[name], float("nan"))}, path)


def test_a_damaged_checkpoint_is_named_and_without_it_the_run_goes_on(command):
    """Also a file that Trainer would go on without, in silence: the optimizer would begin anew."""
    whole, parted = command("stage1", "whole"), command("stage1", "parted")
    train(whole)
    train(parted, [Stop(4)])
    newest = output_dir(parted) / "checkpoint-4"
    kept = shutil.copytree(newest, output_dir(parted) / "kept")
    files = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
    damages = [(name, damage) for name in files for damage in (cut, type(newest).unlink)]
    for name, damage in [*damages, ("model.safetensors", with_nan)]:
        damage(newest / name)
        with pytest.raises(InputError, match=r"checkpoint-4.*without .*checkpoint-4 the same command goes on") as error:
            train(parted)
        assert "\n" not in str(error.value)
        shutil.copytree(kept, newest, dirs_exist_ok=True)
    shutil.rmtree(newest)
    train(parted)
    assert_equal(weights_of("stage1", output_dir(whole)), weights_of("stage1", output_dir(parted)))


OTHERS = [
    ("stage2", {"learning_rate": 0.5}, "learning_rate 0.003 is now 0.5"),
    ("stage2", {"data": INSTRUCTIONS[::-1]}, "data_path"),
    ("stage2", {"max_steps": 12}, "max_steps 6 is now 12"),
    ("stage2", {"save_dtype": "bfloat16"}, "save_dtype 'float32' is now 'bfloat16'"),
    ("stage2", {"per_device_train_batch_size": 2}, "batch 4 is now 2"),
    ("stage2", {"image_folder": "elsewhere"}, "image_folder 'images' is now 'elsewhere'"),
    ("stage2", {"lora_enable": True}, "lora_enable False is now True"),
    ("stage1", {}, "tune_mm_mlp_adapter False is now True"),
]


@pytest.mark.parametrize("finished", [False, True])
def test_the_folder_of_another_training_is_refused_and_stays_as_it_is(command, tmp_path, finished):
    train(command("stage2"), [] if finished else [Stop(2)])
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for stage, options, named in OTHERS:
        with pytest.raises(InputError, match=f"out holds another training: .*{named}"):
            train(command(stage, **options))
    assert {path: path.read_bytes() for path in before} == before
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    train(command("stage2", save_steps=1, logging_steps=2, **halves), [Stop(0)])  # which decide nothing


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_folder_of_a_model_is_not_written_over(command, starting_point, tmp_path, stage):
    model = shutil.copytree(starting_point / "vicuna", tmp_path / "out")
    before = {path: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(InputError, match=r"out has a model or checkpoints, but no trainer_state\.json"):
        train(command(stage, model_name_or_path=model))
    assert {path: path.read_bytes() for path in model.iterdir()} == before


class Spoil(TrainerCallback):
    """Makes a weight NaN after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            next(weight for weight in model.parameters() if weight.requires_grad).data.fill_(float("nan"))


@pytest.mark.parametrize(
    ("step", "named", "kept"),
    [
        (2, "step 2 has made values that are not finite", []),
        (3, "the loss of step 4 is nan", [2]),
        (6, "step 6", [2, 4]),
    ],
)
def test_a_training_that_diverges_ends_and_writes_nothing_of_it(command, step, named, kept):
    options = command("stage1")
    with pytest.raises(InputError, match=named):
        train(options, [Spoil(step)])
    assert not (output_dir(options) / "mm_projector.bin").exists()
    assert sorted(path.name for path in output_dir(options).glob("*-*")) == [f"checkpoint-{step}" for step in kept]
    for step in kept:
        weights = load_file(output_dir(options) / f"checkpoint-{step}" / "model.safetensors")
        assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_only_its_own_old_checkpoints_are_removed(command):
    options = command("stage1", max_steps=3, save_steps=1, save_total_limit=1)
    train(options, [Stop(1)])
    for name in ("checkpoint-best-1", "checkpoint-²", "my-checkpoint-1"):
        (output_dir(options) / name).mkdir()
    train(options)
    found = {path.name for path in output_dir(options).iterdir() if path.is_dir()}
    assert found == {"checkpoint-3", "checkpoint-best-1", "checkpoint-²", "my-checkpoint-1"}


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_the_workers_of_a_killed_training_end_with_it_and_it_goes_on(command, sign):
    """The loader's workers are processes, each of which sees within seconds that its parent has gone.

    But not one that torch has just begun to start, so they live as long as the training here.
    """
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    options = command("stage1", max_steps=400, save_steps=2, save_total_limit=1, **workers)
    run = start("llava.train.train", *options)
    wait_for(lambda: next(output_dir(options).glob("checkpoint-*"), None) is not None, run)
    wait_for(lambda: len(processes_of(output_dir(options))) == 3, run)
    run.send_signal(sign)
    run.wait(timeout=60)
    wait_for(lambda: processes_of(output_dir(options)) == [])
    reached = max(int(path.name.rpartition("-")[2]) for path in output_dir(options).glob("checkpoint-*"))
    losses = Losses()
    train(options, [losses, Stop(reached + 2)])
    assert len(losses.values) == 2
