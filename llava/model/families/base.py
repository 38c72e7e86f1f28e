"""What a model family is made of."""

from dataclasses import dataclass

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """One language model that LLaVA was built on.

    Attributes:
        config_class, causal_lm: the config with LLaVA's keys, and the language model with image input.
        model_types: what published configs say as `model_type`.
        language_models: the `model_type` of the plain language models that training starts from; none if it cannot.
        conv_mode: the prompt template of its checkpoints.
        named_conv_modes: (part of a checkpoint's name, template) of those that have another.
        projector_keys: what the names of the weights begin with that stage 1 trains, and stage 2 too.
        backbone_keys: what the names of the weights begin with that `freeze_backbone` leaves as they are.
    """

    config_class: type[PreTrainedConfig]
    causal_lm: type[PreTrainedModel]
    model_types: tuple[str, ...]
    conv_mode: str
    named_conv_modes: tuple[tuple[str, str], ...] = ()
    language_models: tuple[str, ...] = ()
    projector_keys: tuple[str, ...] = ("model.mm_projector.", "model.image_newline")
    backbone_keys: tuple[str, ...] = ("model.",)

    def __post_init__(self) -> None:
        AutoConfig.register(self.config_class.model_type, self.config_class)
        AutoModelForCausalLM.register(self.config_class, self.causal_lm)

    def conv_mode_of(self, model_name: str) -> str:
        """The prompt template of a checkpoint of this name."""
        name = model_name.lower()
        return next((mode for part, mode in self.named_conv_modes if part in name), self.conv_mode)
