"""Towers, families and hosts are found by what a file of their folder defines; no two may claim the same."""

import sys

import pytest

from llava.integrations.transformers import hosts
from llava.model import families, multimodal_encoder
from llava.model.multimodal_encoder import builder

# of each: the folder's package, what finds all, and a file that claims what another has
TOWER = "from llava.model.multimodal_encoder.clip_encoder import TOWER", "clip", "clip_encoder"
FAMILY = "from llava.model.families.qwen import FAMILY", "LlavaQwenForCausalLM", "qwen"
HOST = "from llava.integrations.transformers.hosts.gemma3 import HOST", "Gemma3ForConditionalGeneration", "gemma3"
ALL = [
    pytest.param(multimodal_encoder, builder.known_towers, *TOWER, id="towers"),
    pytest.param(families, families.known_families, *FAMILY, id="families"),
    pytest.param(hosts, hosts.known_hosts, *HOST, id="hosts"),
]


@pytest.fixture
def add_file(tmp_path, monkeypatch):
    """Add a file of another folder to a package, until the test ends."""
    added = []

    def add(package, name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        added.append((package, name))

    yield add
    for package, name in added:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


@pytest.mark.parametrize(("package", "find", "code", "key", "first"), ALL)
def test_two_files_for_the_same_are_refused_by_name(package, find, code, key, first, add_file):
    add_file(package, "zz_mine", code)
    with pytest.raises(ValueError, match=rf"{first}\.py and zz_mine\.py of {package.__name__} are both for '{key}'"):
        find.__wrapped__()


@pytest.mark.parametrize(("package", "find", "code", "key", "first"), ALL)
def test_a_file_without_the_attribute_is_a_helper(package, find, code, key, first, add_file):
    before = find()
    add_file(package, "zz_helper", "VALUE = 5")
    assert find.__wrapped__() == before
    assert f"{package.__name__}.zz_helper" in sys.modules
