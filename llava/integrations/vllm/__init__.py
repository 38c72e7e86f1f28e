"""Pruned visual tokens in vLLM, see docs/serving.md: LLaVA, and the hosts, vLLM's own models.

vLLM calls `register` in each of its processes, by the entry point of this package, and imports a model when a
checkpoint names its architecture. The folders that `python -m llava.integrations.vllm.prepare` writes name LLaVA's; a
host's is named in place of a published checkpoint's own (`--hf-overrides`). No other checkpoint does.
"""

ARCHITECTURE = "VisPrunerLlavaForConditionalGeneration"
TOWER_FOLDER = "vision_tower"  # of a prepared checkpoint, where the tower's weights are not among its own
HOSTS = {  # vLLM's class -> the file of `hosts` that prunes it
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl_moe",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5",
    "InternVLForConditionalGeneration": "internvl",
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
}


def architecture_of(host: str) -> str:
    """The architecture under which vLLM prunes the pictures of its class `host`."""
    return f"VisPruner{host}"


def register() -> None:
    """Tell vLLM, which calls this and must be installed, where the architectures are; a second call changes nothing."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from llava.integrations.vllm.refusals import checked

    known = ModelRegistry.get_supported_archs()
    if ARCHITECTURE not in known:
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:{ARCHITECTURE}")
    for host, file in HOSTS.items():
        if (architecture := architecture_of(host)) not in known:
            ModelRegistry.register_model(architecture, f"{__name__}.hosts.{file}:{host}")
            MODELS_CONFIG_MAP[architecture] = checked(MODELS_CONFIG_MAP.get(host))
