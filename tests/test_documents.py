"""README and docs/: links lead somewhere, Python runs, and the matrix of methods says what the methods declare."""

import re
from pathlib import Path

import pytest

from llava.pruning import METHOD_NAMES, load_method
from tests.conftest import ROOT, picture

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
BUNDLED = "playground/checkpoints/llava-tiny"
PUBLISHED = "liuhaotian/llava-v1.5-7b"


def python_of(document: str) -> list[str]:
    """The Python of a document, about the bundled model on the CPU."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    on_cpu = f'"{ROOT / BUNDLED}", device="cpu"'
    return [
        block.replace(f'"{PUBLISHED}"', on_cpu if "from_pretrained" in block else f'"{ROOT / BUNDLED}"')
        for block in blocks
    ]


def anchor_of(heading: str) -> str:
    """The fragment of a heading's link."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor_of, headings), target


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_its_python_runs(document, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("picture", "a", "b")):
        picture(seed=number).save(Path(f"{name}.jpg"))
    names: dict = {}
    blocks = [block for block in python_of(document) if "llava-hf/" not in block]
    for block in blocks:
        exec(block, names)
    assert len(blocks) >= 2
    assert capsys.readouterr().out.strip()


def test_the_matrix_is_what_the_methods_declare():
    """`prune` and vLLM refuse what they cannot do, by declared facts; the other doors take every method."""
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    said = {name: doors for cell, *doors in rows for name in re.findall(r"`(\w+)`", cell) if name in METHOD_NAMES}
    assert said.keys() == set(METHOD_NAMES)
    for name, (python, prune, vllm, lmms_eval) in said.items():
        method = load_method(name)
        elsewhere = bool(method.needs) or method.in_decoder or method.blind
        assert (python, lmms_eval.split(",")[0]) == ("yes", "yes"), name
        assert prune.split(",")[0] == ("refused" if elsewhere or method.merges else "yes"), name
        assert vllm == ("refused" if elsewhere else "yes"), name
