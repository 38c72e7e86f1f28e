"""Upstream's place of these classes, which are in `llava.model.families.llama`."""

from llava.model.families.llama import LlavaConfig, LlavaLlamaForCausalLM, LlavaLlamaModel

__all__ = ["LlavaConfig", "LlavaLlamaForCausalLM", "LlavaLlamaModel"]
