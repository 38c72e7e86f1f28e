"""The examples of docs/design.md, applied to a copy of the package: a family is one file, a benchmark is one file."""

import ast
import json
import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT, picture, write_jsonl

TEXT = (ROOT / "docs" / "design.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

FAMILY = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from llava.model.families import find_family
from llava.model.builder import load_pretrained_model

source, folder = map(Path, sys.argv[1:])
values = json.loads((source / "config.json").read_text())
family = find_family(None, "llava_qwen3")
config = family.config_class.from_dict(values | {"head_dim": 16})
torch.manual_seed(0)
model = family.causal_lm(config)
folder.mkdir()
save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "model.safetensors")
written = values | {"model_type": "llava_qwen3", "architectures": ["LlavaQwen3ForCausalLM"], "head_dim": 16}
written |= {"unfreeze_mm_vision_tower": False, "mm_vision_tower": str((source / values["mm_vision_tower"]).resolve())}
(folder / "config.json").write_text(json.dumps(written))
for file in source.glob("*"):
    if file.suffix in (".txt", ".model") or file.name.startswith(("token", "special", "generation", "vocab")):
        (folder / file.name).write_bytes(file.read_bytes())
tokenizer, loaded, *_ = load_pretrained_model(str(folder), None, "llava-qwen3", device="cpu", visual_token_num=8)
ids = torch.tensor([[1, -200, 5]])
pixels = torch.zeros(1, 3, 3, 168, 168)
new = {"min_new_tokens": 2, "max_new_tokens": 2}
print(type(loaded).__name__, loaded.generate(ids, images=pixels, image_sizes=[(336, 168)], **new).shape[1])
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the package that the examples may change, and a way to run Python in it."""
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "llava", folder / "llava", ignore=shutil.ignore_patterns("__pycache__"))

    def run(*args) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, args)], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return folder, run


def test_a_family_is_one_file(copy, checkpoints, tmp_path):
    folder, run = copy
    example = next(block for block in BLOCKS if "FAMILY = Family(" in block)
    (folder / "llava" / "model" / "families" / "qwen3.py").write_text(example)
    assert run("-c", FAMILY, checkpoints("v1.6", "qwen"), tmp_path / "llava-qwen3").split() == [
        "LlavaQwen3ForCausalLM",
        "2",
    ]


def test_a_benchmark_is_one_file(copy, checkpoints, tmp_path):
    folder, run = copy
    example = next(block for block in BLOCKS if 'name="colours"' in block)
    (folder / "llava" / "eval" / "benchmarks" / "colours.py").write_text(example)
    data = tmp_path / "data" / "colours"
    (data / "images").mkdir(parents=True)
    picture().save(data / "images" / "0.png")
    rows = [{"question_id": i, "image": "0.png", "text": f"Which colour is {i}?", "label": "red"} for i in range(3)]
    write_jsonl(data / "colours.jsonl", rows)
    options = ("--model-path", checkpoints(), "--data-dir", tmp_path / "data", "--out-dir", tmp_path / "out")
    out = run("-m", "llava.eval", "colours", *options, "--visual_token_num", 8, "--device", "cpu")
    assert "Samples: 3" in out
    (score,) = (tmp_path / "out").glob("colours/answers/colours/*/n_8/r_0.5/merge.score.json")
    assert json.loads(score.read_text())["samples"] == 3


def test_the_map_names_what_is_there():
    for name in re.findall(r"^\| `([\w/.]+)`", TEXT, re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_imports_point_down_the_map():
    """No file imports from a folder above its own in the document's table, and no circle of imports is run through."""
    places = [name.rstrip("/") for name in re.findall(r"^\| (`llava/.*?) \|", TEXT, re.MULTILINE)]
    levels = {}
    for level, row in enumerate(places):
        for name in re.findall(r"`([\w/.]+)`", row):
            path = name if "/" in name else f"{row.split('`')[1].rpartition('/')[0]}/{name}"
            levels[path.removesuffix(".py").rstrip("/").replace("/", ".")] = level
    modules = {_module(path): path for path in (ROOT / "llava").rglob("*.py")}
    imports = {module: _imported(path, modules) - {module} for module, path in modules.items()}
    for module, names in imports.items():
        level = _level(levels, module)
        for name in names:
            below = _level(levels, name)
            assert level is None or below is None or level <= below, f"{module} imports {name}"
    TopologicalSorter(imports).prepare()


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules that a file imports, for types alone excepted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {inner for node in typing for inner in ast.walk(node)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in skipped]
    names = {(node.module, f"{node.module}.{alias.name}") for node in found for alias in node.names}
    return {inner if inner in modules else outer for outer, inner in names} & set(modules)


def _level(levels: dict[str, int], module: str) -> int | None:
    """The row of the longest place that the module is in; None for what the map does not name."""
    places = [place for place in levels if module == place or module.startswith(f"{place}.")]
    return levels[max(places, key=len)] if places else None
