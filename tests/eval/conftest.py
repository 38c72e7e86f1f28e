"""What the tests of the commands share: calling one, and what bad input must look like."""

import json
from pathlib import Path

import pytest

from tests.conftest import picture, write_jsonl

pytest.register_assert_rewrite("tests.eval.benchmarks.converter_cases")

# A pruning method, as a user may have one in a file.
METHOD = """
def select(views, settings):
    return views.keep(views.importance.argsort(dim=1)[:, -settings.visual_token_num :])
"""


@pytest.fixture
def case(request, tmp_path, call):
    """One converter, named by the parameter, with a folder of input for it."""
    from tests.eval.benchmarks.converter_cases import Case

    return Case(request.param, tmp_path, call)


@pytest.fixture
def score(call, tmp_path):
    """Score rows of answers, or those in a.jsonl: exit code, stdout and stderr of the command."""

    def run(module, labels, rows=None, *options) -> tuple[int, str, str]:
        if rows is not None:
            write_jsonl(tmp_path / "a.jsonl", rows)
        return call(module, "--annotation-file", labels, "--result-file", tmp_path / "a.jsonl", *options)

    return run


@pytest.fixture
def ask(checkpoints, tmp_path):
    """Options that ask 24 questions about 8 pictures, in an order that is not the pictures'."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(8):
        picture(seed=i).save(folder / f"{i}.png")
    rows = [{"question_id": i, "image": f"{i % 8}.png", "text": f"What is number {i}?"} for i in range(24)]
    write_jsonl(tmp_path / "q.jsonl", rows)
    return [
        *("--model-path", checkpoints(), "--device", "cpu", "--temperature", "0", "--max_new_tokens", "3"),
        *("--question-file", tmp_path / "q.jsonl", "--image-folder", folder, "--visual_token_num", "16"),
    ]


def assert_one_line(result: tuple[int, str, str], named: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that has `named` in it."""
    code, out, err = result
    assert code == 2
    assert [line for line in out.splitlines() if not line.startswith("[Gloo]")] == []  # as torch 2.9 greets its peers
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert named in err


def read_jsonl(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def texts(file: Path) -> list[tuple]:
    """The id and the text of each answer in a file."""
    return [(row["question_id"], row["text"]) for row in read_jsonl(file)]


def table_of(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table, header first, without the line below it."""
    lines = [line.strip("|").split("|") for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[:1] + lines[2:]]
