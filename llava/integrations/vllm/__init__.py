"""LLaVA with pruned visual tokens in vLLM, see docs/serving.md.

vLLM calls `register` in each of its processes, by the entry point of this package, and imports the model when a
checkpoint names its architecture: those that `python -m llava.integrations.vllm.prepare` writes do, others do not.
"""

ARCHITECTURE = "VisPrunerLlavaForConditionalGeneration"
TOWER_FOLDER = "vision_tower"  # of a prepared checkpoint, where the tower's weights are not among its own


def register() -> None:
    """Tell vLLM, which calls this and must be installed, where the architecture is; a second call changes nothing."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:{ARCHITECTURE}")
