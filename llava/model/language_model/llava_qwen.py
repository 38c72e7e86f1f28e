"""LLaVA on Qwen2."""

from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from llava.model.llava_arch import LlavaMetaConfig, LlavaMetaForCausalLM, LlavaMetaModel


class LlavaQwenConfig(LlavaMetaConfig, Qwen2Config):
    """Qwen2Config and LLaVA's keys."""

    model_type = "llava_qwen"


class LlavaQwenModel(LlavaMetaModel, Qwen2Model):
    """The decoder stack with vision tower and projector."""

    config_class = LlavaQwenConfig


class LlavaQwenForCausalLM(LlavaMetaForCausalLM, Qwen2ForCausalLM):  # [VisPruner] enters through the mixin
    """The language model that answers questions about pictures."""

    config_class = LlavaQwenConfig
    model_class = LlavaQwenModel


AutoConfig.register(LlavaQwenConfig.model_type, LlavaQwenConfig)
AutoModelForCausalLM.register(LlavaQwenConfig, LlavaQwenForCausalLM)
