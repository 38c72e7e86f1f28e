"""LLaVA on Qwen2."""

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from llava.model.families.base import Family
from llava.model.language_model.llava_causal_lm import LlavaCausalLM
from llava.model.llava_arch import LlavaMetaConfig, LlavaMetaModel


class LlavaQwenConfig(LlavaMetaConfig, Qwen2Config):
    """Qwen2Config and LLaVA's keys."""

    model_type = "llava_qwen"


class LlavaQwenModel(LlavaMetaModel, Qwen2Model):
    """The decoder stack with vision tower and projector."""

    config_class = LlavaQwenConfig


class LlavaQwenForCausalLM(LlavaCausalLM, Qwen2ForCausalLM):  # [VisPruner] enters through the mixin
    """The language model that answers questions about pictures."""

    config_class = LlavaQwenConfig
    model_class = LlavaQwenModel


FAMILY = Family(
    config_class=LlavaQwenConfig,
    causal_lm=LlavaQwenForCausalLM,
    model_types=("llava_qwen",),
    conv_mode="qwen_1_5",
    named_conv_modes=(("qwen", "qwen_1_5"),),
)
