"""The training's options are answered without torch, and are those that transformers' parser takes."""

import subprocess
import sys
from dataclasses import fields

import pytest

from llava.errors import InputError
from llava.train.option_names import REQUIRED, check_names, read_options
from tests.conftest import ROOT

LIGHT = """
import sys
sys.argv = ["train", *{args}]
from llava.train import train
from llava.cli import run_command
try:
    run_command(train.main)
except SystemExit as end:
    sys.exit("it imported torch or transformers" if {{"torch", "transformers"}} & sys.modules.keys() else end.code)
"""


def run(*args: str) -> subprocess.CompletedProcess:
    """The command, which must not import torch or transformers."""
    code = LIGHT.format(args=list(args))
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_needs_no_torch():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    for text in ("--mm_projector_lr", "learning rate of the projector", "--per_device_train_batch_size"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--output_dirr", "x"), "unrecognized arguments: --output_dirr"),
        (("--learning-rat=1",), "--output_dir is needed"),
        ((), "--output_dir is needed"),
        (("--output_dir", "x", "--data_path", "y"), "--model_name_or_path is needed"),
    ],
)
def test_a_mistyped_or_missing_option_needs_no_torch(args, named):
    done = run(*args)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr


def test_the_names_are_those_of_the_dataclasses():
    from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments

    options = read_options()
    found = {*options["llava"], *options["trainer"]}
    taken = {
        field.name for cls in (ModelArguments, DataArguments, TrainingArguments) for field in fields(cls) if field.init
    }
    assert taken <= found
    needed = [part for name in REQUIRED for part in (f"--{name}", "x")]
    for name in sorted(taken):
        check_names([*needed, f"--{name}", "x"])
        check_names([*needed, f"--{name.replace('_', '-')}=x"])
    with pytest.raises(InputError, match="unrecognized arguments: --mm_projektor"):
        check_names([*needed, "--mm_projektor", "x"])


def test_help_says_what_an_option_takes_and_what_it_is_by_default():
    options = read_options()
    assert "default: 'v1'" in options["llava"]["version"]
    assert "float16, bfloat16 or float32" in options["llava"]["save_dtype"]
    assert "linear, cosine," in options["trainer"]["lr_scheduler_type"]
    assert "adamw_torch" in options["trainer"]["optim"]
    assert "default: 0.9)" in options["trainer"]["adam_beta1"]
    assert all(text for name, text in options["llava"].items())
