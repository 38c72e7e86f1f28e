"""LLaVA on Mistral."""

from transformers import MistralConfig, MistralForCausalLM, MistralModel

from llava.model.families.base import Family
from llava.model.language_model.llava_causal_lm import LlavaCausalLM
from llava.model.llava_arch import LlavaMetaConfig, LlavaMetaModel


class LlavaMistralConfig(LlavaMetaConfig, MistralConfig):
    """MistralConfig and LLaVA's keys."""

    model_type = "llava_mistral"


class LlavaMistralModel(LlavaMetaModel, MistralModel):
    """The decoder stack with vision tower and projector."""

    config_class = LlavaMistralConfig


class LlavaMistralForCausalLM(LlavaCausalLM, MistralForCausalLM):  # [VisPruner] enters through the mixin
    """The language model that answers questions about pictures."""

    config_class = LlavaMistralConfig
    model_class = LlavaMistralModel


FAMILY = Family(
    config_class=LlavaMistralConfig,
    causal_lm=LlavaMistralForCausalLM,
    model_types=("llava_mistral",),
    conv_mode="mistral_instruct",
    named_conv_modes=(("mistral", "mistral_instruct"),),
    language_models=("mistral",),
)
