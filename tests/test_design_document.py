"""docs/design.md: its examples, applied to a copy of the package, touch the files that it says, and its map is true."""

import ast
import filecmp
import importlib
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


@pytest.mark.slow
def test_a_family_is_one_file(copy, checkpoints, tmp_path):
    folder, run = copy
    example = next(block for block in BLOCKS if "FAMILY = Family(" in block)
    (folder / "llava" / "model" / "families" / "qwen3.py").write_text(example)
    assert run("-c", FAMILY, checkpoints("v1.6", "qwen"), tmp_path / "llava-qwen3").split() == [
        "LlavaQwen3ForCausalLM",
        "2",
    ]


@pytest.mark.slow
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


SETTING = """
import inspect, json, sys, torch
from argparse import ArgumentParser
from llava import Engine
from llava.integrations.transformers import prune, pruned
from llava.integrations.vllm.settings import pack, unpack
from llava.pruning import Settings, Views, select
from llava.pruning.settings import add_settings_arguments, settings_from
from llava.serve.api.schema import PruningFields
from PIL import Image

parser = ArgumentParser()
add_settings_arguments(parser)
given = Settings(8, pruning_method="fastervlm", outliers=2)
options = ["--visual_token_num", "8", "--pruning_method", "fastervlm", "--outliers", "2"]
engine = Engine.from_pretrained(sys.argv[1], device="cpu", outliers=2)
model, image = engine.model, Image.new("RGB", (40, 40), "red")
asked = {"visual_token_num": 8, "pruning_method": "fastervlm", "do_sample": False, "max_new_tokens": 2}
ids = torch.tensor([[1, -200, 5]])
views = Views(torch.rand(1, 9, 2), importance=torch.arange(9.0)[None])
print(json.dumps({
    "command line": settings_from(parser.parse_args(options)) == given,
    "loading": model.pruning == Settings(outliers=2) and model.outliers == 2,
    "ask": engine.ask("What?", image, outliers=1, **asked) is not None,
    "session": engine.session(outliers=1).pruning.outliers == 1,
    "generate": len(model.generate(ids, images=torch.zeros(1, 3, 168, 168), outliers=1, **asked)) == 1,
    "prune": {"outliers"} <= inspect.signature(prune).parameters.keys() & inspect.signature(pruned).parameters.keys(),
    "vLLM": unpack(pack(given)) == given,
    "HTTP": "outliers" in PruningFields.model_fields,
    "folder": given.suffix == "_outliers_2",
    "read": given.read["outliers"] == 2,
    "heeded": select(views, Settings(2, pruning_method="fastervlm", outliers=2)).patches.tolist() == [[5, 6]],
}))
"""

VIEW = """
from llava.model.builder import load_pretrained_model
import sys, torch
model = load_pretrained_model(sys.argv[1], None, "llava", device="cpu")[1]
views = model.get_vision_tower().encode(torch.zeros(2, 3, 168, 168))
print(views.values.shape == views.hidden_states.shape, views.crops(slice(1, 2)).values.shape[0])
"""


@pytest.mark.slow
def test_a_setting_is_three_files(copy, checkpoints):
    folder, run = copy
    field, heeds = (block for block in BLOCKS if "outliers" in block)
    settings, method = (folder / "llava" / "pruning" / name for name in ("settings.py", "methods/fastervlm.py"))
    _put_before(settings, "\n    def __post_init__", field)
    text = method.read_text()
    start, end = text.index("    def select"), text.index("\n\nMETHOD")
    method.write_text(text[:start] + heeds + text[end:])
    (folder / "test_outliers.py").write_text(SETTING)  # the third
    facts = json.loads(run("test_outliers.py", checkpoints()))
    assert [name for name, holds in facts.items() if not holds] == []
    for command in ("llava.eval", "llava.bench", "llava.eval.run_llava", "llava.serve.cli", "llava.eval.budget"):
        assert "--outliers" in run("-m", command, "--help"), command
    assert _changed(folder) == ["pruning/methods/fastervlm.py", "pruning/settings.py"]


@pytest.mark.slow
def test_a_view_is_two_files(copy, checkpoints):
    folder, run = copy
    view = next(block for block in BLOCKS if "values = View(" in block)
    given = re.search(r"`(values=lambda.*?)`", TEXT)[1]
    _put_before(folder / "llava" / "pruning" / "views.py", "    question = View(", view)
    tower = folder / "llava" / "model" / "multimodal_encoder" / "clip_encoder.py"
    _put_before(tower, "            pixels=images,\n", f"            {given},\n")
    assert run("-c", VIEW, checkpoints()).split() == ["True", "1"]
    assert _changed(folder) == ["model/multimodal_encoder/clip_encoder.py", "pruning/views.py"]


HOST = """
import torch
from transformers import JanusConfig, JanusForConditionalGeneration
from llava.integrations.transformers import prune

text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
tower = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
         "projection_dim": 32, "depth": 2}
torch.manual_seed(0)
model = JanusForConditionalGeneration(JanusConfig(text_config=text, vision_config=tower, image_token_id=60)).eval()
ids = torch.tensor([[1, *[60] * 16, 5, 6], [1, *[60] * 16, 7, 8]])
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(2, 3, 56, 56)}
new = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
whole = model(**inputs).logits
prune(model, 4)
print(model(**inputs).logits.shape[1], torch.equal(model(**inputs, visual_token_num=1.0).logits, whole),
      model.generate(**inputs, **new).shape[1])
"""


@pytest.mark.slow
def test_a_host_is_one_file(copy):
    folder, run = copy
    example = next(block for block in BLOCKS if "class JanusHost" in block)
    (folder / "llava" / "integrations" / "transformers" / "hosts" / "janus.py").write_text(example)
    assert run("-c", HOST).split() == ["7", "True", "22"]
    assert _changed(folder) == ["integrations/transformers/hosts/janus.py"]


def _put_before(path: Path, mark: str, text: str) -> None:
    before, after = path.read_text().split(mark)
    path.write_text(before + text + mark + after)


def _changed(folder: Path) -> list[str]:
    """The files of the package that are others in a copy of it."""
    own = {path.relative_to(ROOT / "llava") for path in (ROOT / "llava").rglob("*.py")}
    theirs = {path.relative_to(folder / "llava") for path in (folder / "llava").rglob("*.py")}
    same = [path for path in own & theirs if filecmp.cmp(ROOT / "llava" / path, folder / "llava" / path, shallow=False)]
    return sorted(map(str, (own | theirs) - set(same)))


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "llava").rglob("*.py")
}
PLACES = re.findall(r"^\| (`llava/.*?) \|", TEXT, re.MULTILINE)
LEVELS = {
    name.removesuffix(".py").removesuffix("/__init__").rstrip("/").replace("/", "."): level
    for level, row in enumerate(PLACES)
    for name in re.findall(r"`([\w/.]+)`", row)
}


def test_the_map_names_what_is_there():
    for row in PLACES:
        name = row.split("`")[1]
        assert (ROOT / name).exists(), name


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """What each module imports of the package, but those that only re-export: they may import from anywhere."""
    shims = {module for module, path in MODULES.items() if _only_re_exports(path)}
    found = {module: _imported(module) - {module, "llava"} for module in MODULES.keys() - shims}
    for module, names in found.items():
        assert not names & shims, f"{module} imports {names & shims}"
    return found


def test_imports_point_down_the_map(imports):
    """For types or by a string either."""
    for module, names in imports.items():
        for name in names:
            assert _level(module) <= _level(name), f"{module} imports {name}"


def test_there_is_no_circle_of_imports(imports):
    TopologicalSorter(imports).prepare()


def test_the_package_itself_imports_nothing_of_it():
    """Every import of a module runs it first."""
    tree = ast.parse(MODULES["llava"].read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module.startswith("llava")]


def _only_re_exports(path: Path) -> bool:
    """Whether a module has imports and nothing of its own, but perhaps the call of an imported command."""
    body = ast.parse(path.read_text(encoding="utf-8")).body[1:]
    if path.name.startswith("__") or not body:
        return False
    return all(
        isinstance(node, ast.ImportFrom)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'")
        for node in body
    )


def _imported(module: str) -> set[str]:
    """The modules of the package that one imports, or names in full in a string, or looks for in its folder."""
    names: set[str] = set()
    source = MODULES[module].read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inner}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    if re.search(r"import_module\(f.\{__(name|package)__\}\.\{", source) and "iter_modules" in source:
        package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
        names |= {name for name in MODULES if name.rpartition(".")[0] == package}
    return names & MODULES.keys()


def _level(module: str) -> int:
    """The row of the longest place that the module is in."""
    if module in LEVELS:
        return LEVELS[module]
    places = [place for place in LEVELS if module.startswith(f"{place}.") and place != "llava"]
    assert places, f"the map has no room for {module}"
    return LEVELS[max(places, key=len)]


def test_upstream_s_names_are_where_the_table_says():
    """Every module that only re-exports is in the table of `llava.upstream`, with all of its names and their homes."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.*) \| `([\w.]+)` \|$", importlib.import_module("llava.upstream").__doc__, re.M
    )
    listed: dict[str, set[str]] = {}
    for module, names, home in rows:
        for name in re.findall(r"`(\w+)`(?: \(now `(\w+)`\))?", names):
            given = getattr(importlib.import_module(module), name[0])
            assert given is getattr(importlib.import_module(home), name[1] or name[0]), name
            listed.setdefault(module, set()).add(name[0])
    shims = {
        name: path for name, path in MODULES.items() if _only_re_exports(path) and "__main__" not in path.read_text()
    }
    for name, path in shims.items():
        imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        assert listed.pop(name) == {alias.asname or alias.name for node in imports for alias in node.names}, name
    assert not listed
