"""LLaVA on Llama, hence Vicuna."""

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from llava.model.families.base import Family
from llava.model.language_model.llava_causal_lm import LlavaCausalLM
from llava.model.llava_arch import LlavaMetaConfig, LlavaMetaModel


class LlavaConfig(LlavaMetaConfig, LlamaConfig):
    """LlamaConfig and LLaVA's keys."""

    model_type = "llava_llama"


class LlavaLlamaModel(LlavaMetaModel, LlamaModel):
    """The decoder stack with vision tower and projector."""

    config_class = LlavaConfig


class LlavaLlamaForCausalLM(LlavaCausalLM, LlamaForCausalLM):  # [VisPruner] enters through the mixin
    """The language model that answers questions about pictures."""

    config_class = LlavaConfig
    model_class = LlavaLlamaModel


FAMILY = Family(
    config_class=LlavaConfig,
    causal_lm=LlavaLlamaForCausalLM,
    model_types=("llava", "llava_llama"),
    conv_mode="llava_v1",
    named_conv_modes=(
        ("llama-2", "llava_llama_2"),
        ("llama-3", "llava_llama_3"),
        ("llama3", "llava_llama_3"),
        ("34b", "chatml_direct"),
        ("mpt", "mpt"),
        ("gemma", "gemma_instruct"),
        ("v0", "llava_v0"),
    ),
    language_models=("llama",),
)
