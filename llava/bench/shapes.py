"""The published models' shapes."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """Sizes of a CLIP tower and a Llama; `grid` is the picture in crops (across, down), None for one crop."""

    vision_width: int
    vision_layers: int
    vision_heads: int
    image_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    vocabulary: int
    context: int
    grid: tuple[int, int] | None = None


CLIP_L = (1024, 24, 16, 336)
LLAMA_7B = (4096, 32, 32, 11008, 32000, 4096)
SHAPES = {
    "llava-v1.5-7b": Shape(*CLIP_L, *LLAMA_7B),
    "llava-v1.5-13b": Shape(*CLIP_L, 5120, 40, 40, 13824, 32000, 4096),
    "llava-v1.6-7b": Shape(*CLIP_L, *LLAMA_7B, grid=(2, 2)),
    "llava-tiny": Shape(128, 5, 4, 168, 224, 7, 7, 512, 1400, 2048),
}


@dataclass(frozen=True)
class HostShape:
    """A model of transformers: its class and config, without the ending `ForConditionalGeneration` and `Config`.

    Attributes:
        vision, text: of the config, as in the checkpoint's config.json; what is left out there is the class's default.
    """

    name: str
    vision: dict
    text: dict
    others: dict = field(default_factory=dict)


QWEN_TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
HOSTS = {
    # config.json of Qwen/Qwen2.5-VL-7B-Instruct
    "Qwen2.5-VL-7B": HostShape(
        "Qwen2_5_VL",
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        QWEN_TOKENS,
    ),
    # config.json of Qwen/Qwen3-VL-8B-Instruct
    "Qwen3-VL-8B": HostShape(
        "Qwen3VL",
        {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "out_hidden_size": 4096,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        QWEN_TOKENS,
    ),
}
