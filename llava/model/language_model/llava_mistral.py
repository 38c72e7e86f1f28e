"""Upstream's place of these classes, which are in `llava.model.families.mistral`."""

from llava.model.families.mistral import LlavaMistralConfig, LlavaMistralForCausalLM, LlavaMistralModel

__all__ = ["LlavaMistralConfig", "LlavaMistralForCausalLM", "LlavaMistralModel"]
