"""Training that was interrupted or is finished: what another run of the same command does."""

import shutil
import signal

import pytest

from llava.checkpoints.weight_files import read_weights
from llava.errors import InputError
from llava.train.train import train
from tests.eval.run.runs import processes_of, start, wait_for
from tests.train.conftest import Losses, Stop, assert_equal, output_dir, weights_of


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


def test_what_another_run_or_nobody_trained_is_not_called_finished(command, checkpoints, tmp_path):
    options = command("stage1", max_steps=1)
    train(options)
    with pytest.raises(InputError, match="has the result of something else than this training"):
        train(command("stage2"))
    shutil.copytree(checkpoints(), tmp_path / "published")
    with pytest.raises(InputError, match="has the result of something else than this training"):
        train(command("stage2", name="published"))


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


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_the_workers_of_a_killed_training_end_with_it_and_it_goes_on(command, sign):
    """The loader's workers are processes, each of which sees within seconds that its parent has gone."""
    options = command("stage1", max_steps=400, save_steps=2, save_total_limit=1, dataloader_num_workers=2)
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
