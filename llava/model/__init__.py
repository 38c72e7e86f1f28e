"""The model: checkpoints in, answers out. Classes are imported when first used, since transformers takes seconds."""

from importlib import import_module

_FAMILY_OF = {
    "LlavaConfig": "llama",
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralConfig": "mistral",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenConfig": "qwen",
    "LlavaQwenForCausalLM": "qwen",
}


def __getattr__(name: str):
    if name in _FAMILY_OF:
        return getattr(import_module(f"{__name__}.families.{_FAMILY_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
