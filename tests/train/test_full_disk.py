"""A file that cannot be written, as on a full disk: one line, and another run goes on from the last checkpoint."""

import contextlib
import resource
from collections.abc import Iterator

import pytest

from llava.errors import InputError
from llava.train.train import train
from tests.train.conftest import Stop, assert_equal, output_dir, weights_of


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails with the error of the system, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("size", "file"), [(20_000, "model.safetensors"), (50_000, "optimizer.pt")])
def test_a_checkpoint_that_cannot_be_written_costs_no_earlier_one(command, size, file):
    whole, parted = command("stage1", "whole"), command("stage1", "parted")
    train(whole)
    train(parted, [Stop(2)])
    sizes = {path.name: path.stat().st_size for path in (output_dir(parted) / "checkpoint-2").iterdir()}
    assert sizes[file] > size
    with no_file_larger_than(size), pytest.raises(InputError) as error:
        train(parted)
    assert str(error.value).startswith(f"cannot write to {output_dir(parted)}: ")
    assert "\n" not in str(error.value)
    assert [path.name for path in output_dir(parted).iterdir() if path.is_dir()] == ["checkpoint-2"]
    train(parted)
    assert_equal(weights_of("stage1", output_dir(whole)), weights_of("stage1", output_dir(parted)))


@pytest.mark.parametrize(("stage", "size"), [("stage1", 20_000), ("stage2", 1_000_000)])
def test_a_result_that_cannot_be_written_is_written_by_the_next_run(command, stage, size):
    options = command(stage, max_steps=1, save_strategy="no")
    with no_file_larger_than(size), pytest.raises(InputError, match="cannot write to"):
        train(options)
    result = output_dir(options) / ("mm_projector.bin" if stage == "stage1" else "config.json")
    assert not result.exists()
    train(options)
    assert weights_of(stage, output_dir(options))
