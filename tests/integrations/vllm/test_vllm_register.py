"""The plugin beside vLLM's own models."""

import pytest

from tests.integrations.vllm.conftest import NO_VLLM

pytest.importorskip("vllm.version", reason=NO_VLLM)

from importlib.metadata import entry_points

from vllm import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, Qwen3_5ForConditionalGenerationConfig

from llava.integrations.vllm import ARCHITECTURE, HOSTS, architecture_of

OWN = {ARCHITECTURE, *map(architecture_of, HOSTS)}
HYBRID = "Qwen3_5ForConditionalGeneration"  # of which vLLM asks about its cache


def test_vllm_finds_the_plugin_and_keeps_its_own_llava():
    (plugin,) = (entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "llava")
    others = {name: model for name, model in ModelRegistry.models.items() if name not in OWN}
    assert {"LlavaForConditionalGeneration", *HOSTS} <= others.keys()
    register = plugin.load()
    for _ in range(2):  # vLLM may call it again
        register()
        assert OWN.issubset(ModelRegistry.get_supported_archs())
        assert {name: ModelRegistry.models[name] for name in others} == others
    assert ModelRegistry.models.keys() - others.keys() == OWN
    assert Qwen3_5ForConditionalGenerationConfig in MODELS_CONFIG_MAP[architecture_of(HYBRID)].__mro__
