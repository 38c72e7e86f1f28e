"""The commands of playground/tiny and make_random_checkpoint.py: help at once, and bad input in one line."""

import subprocess
from pathlib import Path

import pytest
import torch

from llava.checkpoints.weight_files import read_weights
from llava.errors import InputError
from tests.conftest import ROOT, load_script
from tests.recipes import assert_refused, run_python

TINY = ROOT / "playground" / "tiny"
FILES = [path for path in TINY.rglob("*.py") if "run_command(" in path.read_text()]
MODULES = sorted(path.parent.name if path.name == "__main__.py" else path.stem for path in FILES)
# Runs a command where importing torch or transformers fails.
WITHOUT_TORCH = """if True:
    import runpy, sys
    sys.modules |= {"torch": None, "transformers": None}
    command, sys.argv = sys.argv[1], sys.argv[1:]
    run = runpy.run_path if command.endswith(".py") else runpy.run_module
    run(command, run_name="__main__")
"""


def run_without_torch(command: str, *args) -> subprocess.CompletedProcess:
    return run_python("-c", WITHOUT_TORCH, command, *args)


COMMANDS = [*(f"playground.tiny.{name}" for name in MODULES), "scripts/make_random_checkpoint.py"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_there_without_torch_whose_import_takes_seconds(name):
    done = run_without_torch(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {'python -m ' if '/' not in name else ''}{Path(name).name}")


@pytest.mark.parametrize(
    ("command", "args", "named"),
    [
        ("playground.tiny.data", ("--output", "/x", "--scenes", "0"), "an integer of at least 1, got '0'"),
        ("playground.tiny.data", ("--output", "/dev/null/x", "--scenes", "1"), "cannot make the folder /dev/null/x"),
        ("playground.tiny.benchmarks", ("--output", "/dev/null/x"), "cannot make the folder /dev/null/x"),
        ("playground.tiny.benchmarks", ("--outpt", "/x"), "--output"),
        ("playground.tiny.clip", ("--images", "/x", "--output", "/x", "--scenes", "many"), "got 'many'"),
        ("playground.tiny.evaluate", ("--processes", "0"), "--processes: must be an integer of at least 1, got '0'"),
        ("playground.tiny.letters", ("--model", "/x", "--mdel", "/x"), "--data, --output"),
        ("playground.tiny.language_model", ("--batch-size", "-1"), "at least 1, got '-1'"),
        ("scripts/make_random_checkpoint.py", ("/x", "--version", "v7"), "invalid choice: 'v7'"),
        ("scripts/make_random_checkpoint.py", ("/dev/null/x",), "cannot make the folder /dev/null/x"),
    ],
)
def test_bad_options_are_one_line_without_torch(command, args, named):
    assert_refused(run_without_torch(command, *args), named)


def test_a_random_checkpoint_that_exists_is_named_and_stays(checkpoints, monkeypatch):
    folder = checkpoints()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("sys.argv", ["make_random_checkpoint", str(folder.parent)])
    with pytest.raises(InputError, match=f"{folder} exists already"):
        load_script("make_random_checkpoint").main()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_random_checkpoints_share_a_folder_and_its_tower(make_checkpoint):
    first = make_checkpoint()
    tower = first.parent / "clip-vit-tiny-random" / "pytorch_model.bin"
    before = tower.read_bytes()
    second = make_checkpoint(language_model="qwen")
    assert first.parent == second.parent
    assert tower.read_bytes() == before


def test_the_making_explains_itself_and_takes_no_arguments():
    recipe = ["bash", TINY / "make.sh"]
    explained = subprocess.run([*recipe, "--help"], capture_output=True, text=True, check=False)
    refused = subprocess.run([*recipe, "--scenes"], capture_output=True, text=True, check=False)
    assert explained.returncode == 0
    assert explained.stdout.startswith("Make the bundled model and benchmarks: bash playground/tiny/make.sh\n")
    assert explained.stdout.endswith("(playground).\n")
    assert_refused(refused, "it takes no arguments")


def test_a_random_checkpoint_is_the_same_beside_another(tmp_path):
    make, folders = load_script("make_random_checkpoint").make_checkpoint, [tmp_path / "alone", tmp_path / "beside"]
    for folder in folders:
        folder.mkdir()
    make(folders[1], "v1.6", "qwen")
    alone, beside = (read_weights(make(folder, "v1.5")) for folder in folders)
    assert alone.keys() == beside.keys()
    assert all(torch.equal(alone[name], beside[name]) for name in alone)
