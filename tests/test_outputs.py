"""Where a command will write is looked at before it works: one line, exit code 2, and nothing is changed."""

import importlib
from pathlib import Path

import pytest

from llava.errors import InputError
from llava.files import atomic_writer, require_new_folder, require_writable
from tests.conftest import load_script

QUESTIONS = ["--question-file", "none.jsonl", "--image-folder", "none"]
# Module -> options up to the file that is written; no input of them is there.
FILES = {
    "llava.eval.run.answers": ["--question-file", "none", "--answers-files", "none", "--output"],
    "llava.eval.model_vqa_loader": ["--model-path", "none", *QUESTIONS, "--answers-file"],
    "llava.eval.submit": ["gqa", "--src", "none", "--dst"],
    "llava.eval.eval_gqa": ["--annotation-file", "none", "--result-file", "none", "--output"],
    "llava.eval.eval_pope": [
        "--annotation-dir",
        "none",
        "--question-file",
        "none",
        "--result-file",
        "none",
        "--output",
    ],
    "llava.eval.eval_mme": ["--data-dir", "none", "--result-file", "none", "--output"],
    "llava.eval.eval_textvqa": ["--annotation-file", "none", "--result-file", "none", "--output"],
    "llava.eval.eval_science_qa": ["--base-dir", "none", "--result-file", "none.jsonl", "--output-file"],
    "llava.eval.benchmarks.vqav2:submit": ["--result-file", "none", "--result-upload-file"],
    "scripts.benchmarks.answering": ["--model-path", "none", *QUESTIONS, "--output"],
    "scripts.benchmarks.selection": ["--output"],
    "scripts.benchmarks.side_by_side": ["--model-path", "none", *QUESTIONS, "--visual_token_num", "8", "--output"],
    "docs.examples.draw_page": ["--output"],
    "docs.examples.draw_selection": ["--model-path", "none", "--output"],
}
# Module -> options up to a folder, and a file that is written in it.
FOLDERS = {
    "llava.eval.budget": (["--model-path", "none", *QUESTIONS, "--output"], "budget.csv"),
    "llava.bench.__main__": (["--model-path", "none", "--output"], "bench.md"),
    "llava.eval.report.summary": (["--out-dir", "none", "--output"], "differences.md"),
    "scripts.benchmarks.rounding_spread": (["--model-path", "none", "--output"], "rounding.json"),
}
NEW_FOLDERS = {
    "llava.model.convert": (["none/none"], ["--to", "hf"]),
    "merge_lora_weights": (["--model-path", "none", "--model-base", "none", "--save-model-path"], []),
}


@pytest.fixture
def refuses(call, tmp_path, monkeypatch):
    """refuses(module, *options): the command ends with one line about what cannot be written, and changes nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()

    def check(module: str, *options) -> None:
        before = sorted(tmp_path.rglob("*"))
        name, _, function = module.partition(":")
        loaded = importlib.import_module(name) if "." in name else load_script(name)
        if function:
            monkeypatch.setattr(loaded, "main", getattr(loaded, function))
        code, out, said = call(loaded, *options)
        assert (code, out, said.count("\n")) == (2, "", 1), said
        assert "cannot write" in said or "exists already" in said, said
        assert sorted(tmp_path.rglob("*")) == before
        assert (tmp_path / "file").read_text() == "kept"

    return check


@pytest.mark.parametrize("module", FILES)
def test_a_file_that_cannot_be_written_is_named_first(refuses, module):
    for place in ("folder", "file/out.json", "file/far/below/out.json", "/proc/none/out.json", "x" * 300, "/dev/null"):
        refuses(module, *FILES[module], place)


@pytest.mark.parametrize("module", FOLDERS)
def test_a_folder_that_cannot_be_written_is_named_first(refuses, module, tmp_path):
    options, name = FOLDERS[module]
    (tmp_path / "taken" / name).mkdir(parents=True)
    for place in ("file", "file/below", "/proc/none", "x" * 300, "taken"):
        refuses(module, *options, place)


@pytest.mark.parametrize("module", NEW_FOLDERS)
def test_a_folder_that_cannot_be_made_is_named_first(refuses, module):
    before, after = NEW_FOLDERS[module]
    for place in ("file", "folder", "file/below", "/proc/none", "x" * 300):
        refuses(module, *before, place, *after)


@pytest.mark.parametrize("name", ["merge.score.json", "merge.items.json", "merge.run.json", "merge.jsonl"])
def test_what_evaluation_writes_is_looked_at_before_a_question_is_asked(call, checkpoints, pope, tmp_path, name):
    folder = tmp_path / "out" / "pope" / "answers" / "llava_pope_test" / checkpoints().name / "n_8" / "r_0.5"
    (folder / name).mkdir(parents=True)
    options = ["pope", "--model-path", checkpoints(), "--data-dir", pope.parent, "--out-dir", tmp_path / "out"]
    module = importlib.import_module("llava.eval.__main__")
    for more in (["8"], ["8", "4"]):
        code, _, said = call(module, *options, "--visual_token_num", *more)
        assert code == 2 and f"{name} is a folder" in said
    assert not list((tmp_path / "out").rglob("*.parts"))


def test_the_table_of_an_evaluation_is_looked_at_before_a_question_is_asked(call, checkpoints, pope, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary").write_text("a file")
    options = ["pope", "--model-path", checkpoints(), "--data-dir", pope.parent, "--out-dir", tmp_path / "out"]
    code, _, said = call(importlib.import_module("llava.eval.__main__"), *options, "--visual_token_num", "8", "4")
    assert code == 2 and said.count("\n") == 1 and "summary is no folder" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["summary"]


def test_looking_leaves_nothing_and_what_can_be_written_is_taken(tmp_path):
    (tmp_path / "old.json").write_text("old")
    require_writable(tmp_path / "old.json", tmp_path / "a" / "b" / "new.json", "relative.json")
    require_new_folder(tmp_path / "a" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    with pytest.raises(InputError, match="exists already"):
        require_new_folder(tmp_path)
    with pytest.raises(InputError, match="cannot write /dev/null: it is no file"), atomic_writer("/dev/null"):
        pass
    assert not Path("/dev/null").is_file()
