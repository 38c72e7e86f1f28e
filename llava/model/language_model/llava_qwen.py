"""Upstream's place of these classes, which are in `llava.model.families.qwen`."""

from llava.model.families.qwen import LlavaQwenConfig, LlavaQwenForCausalLM, LlavaQwenModel

__all__ = ["LlavaQwenConfig", "LlavaQwenForCausalLM", "LlavaQwenModel"]
