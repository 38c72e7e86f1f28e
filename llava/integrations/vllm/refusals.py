"""What a server with a host cannot have: refused when its options are read, each in one line."""

from vllm.config import VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from llava.errors import InputError
from llava.integrations.vllm.settings import own_settings, read_budget, tower_of


def checked(own: type[VerifyAndUpdateConfig] | None) -> type[VerifyAndUpdateConfig]:
    """What vLLM asks about a model's config: the same as `own`, that of the model that is pruned, and `refuse`."""

    class Checked(own or VerifyAndUpdateConfig):
        @staticmethod
        def verify_and_update_config(vllm_config: VllmConfig) -> None:
            refuse(vllm_config)
            (own or VerifyAndUpdateConfig).verify_and_update_config(vllm_config)

    return Checked


def refuse(config: VllmConfig) -> None:
    """Raise InputError, naming the option, for what does not go together with pruned pictures, and a wrong setting."""
    pictures, parallel = config.model_config.multimodal_config, config.parallel_config
    compilation, lora, draft = config.compilation_config, config.lora_config, config.speculative_config
    has_axes, checkpoint = config.model_config.uses_mrope, config.model_config.hf_config
    refused = {
        "--video-pruning-rate": (pictures.video_pruning_rate, "it prunes videos in a way of its own"),
        "--mm-encoder-tp-mode data": (
            pictures.mm_encoder_tp_mode == "data",
            "one rank alone has the attention of a picture",
        ),
        "--enable-mm-embeds": (pictures.enable_mm_embeds, "embeddings of pictures have no attention to choose by"),
        "--pipeline-parallel-size": (
            parallel.pipeline_parallel_size > 1 and has_axes,
            "positions of kept tokens are known to the first stage alone",
        ),
        "--enable-dbo": (
            parallel.use_ubatching and has_axes,
            "microbatches would have the positions of other tokens",
        ),
        "cudagraph_mm_encoder": (compilation.cudagraph_mm_encoder, "a recorded tower does not show its attention"),
        "compile_mm_encoder": (compilation.compile_mm_encoder, "a compiled tower does not show its attention"),
        "--enable-tower-connector-lora": (
            lora is not None and lora.enable_tower_connector_lora,
            "vLLM derives the tower's tokens from those that are kept",
        ),
        "--speculative-config": (
            draft is not None and "ngram" not in str(draft.method),
            "a draft model cannot read pruned pictures; ngram can be used",
        ),
        "vision_feature_layer": (
            checkpoint.model_type == "internvl" and checkpoint.vision_feature_layer != -1,
            "vLLM's InternVL reads the tower's last layer, whatever the config says",
        ),
    }
    for option, (is_set, why) in refused.items():
        if is_set:
            raise InputError(f"{option} cannot be combined with pruned pictures: {why}")
    read_budget({}, own_settings(pictures.mm_processor_kwargs), tower_of(checkpoint))
