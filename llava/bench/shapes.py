"""Models with random weights in the published models' shapes, built on the device that is measured."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.initialization import no_init_weights

from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower


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

    @property
    def crops(self) -> int:
        return 1 if self.grid is None else 1 + self.grid[0] * self.grid[1]


CLIP_L = (1024, 24, 16, 336)
LLAMA_7B = (4096, 32, 32, 11008, 32000, 4096)
SHAPES = {
    "llava-v1.5-7b": Shape(*CLIP_L, *LLAMA_7B),
    "llava-v1.5-13b": Shape(*CLIP_L, 5120, 40, 40, 13824, 32000, 4096),
    "llava-v1.6-7b": Shape(*CLIP_L, *LLAMA_7B, grid=(2, 2)),
    "llava-tiny": Shape(128, 5, 4, 168, 224, 7, 7, 512, 1400, 2048),
}


def build_tower(
    shape: Shape, device: torch.device, dtype: torch.dtype, attn_implementation: str = "sdpa"
) -> CLIPVisionTower:
    """The vision tower alone, without an image processor."""
    config = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.image_size,
        patch_size=14,
        attn_implementation=attn_implementation,
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
        tower = CLIPVisionTower(folder, SimpleNamespace(mm_vision_select_layer=-2), delay_load=True)
    tower.vision_tower = _with_random_weights(CLIPVisionModel, config, device, dtype)
    tower.is_loaded = True
    return tower.eval().requires_grad_(False)


def build(shape: Shape, device: torch.device, dtype: torch.dtype, attn_implementation: str) -> LlavaLlamaForCausalLM:
    """A LLaVA of this shape in eval mode; its weights are random, with a standard deviation of 0.02."""
    config = LlavaConfig(
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context,
        mm_hidden_size=shape.vision_width,
        mm_projector_type="mlp2x_gelu",
        mm_vision_tower="random",
        mm_patch_merge_type="flat" if shape.grid is None else "spatial",
        image_grid_pinpoints=shape.grid and [[side * shape.image_size for side in shape.grid]],
        eos_token_id=None,
        attn_implementation=attn_implementation,
    )
    model = _with_random_weights(LlavaLlamaForCausalLM, config, device, dtype)
    model.model.vision_tower = build_tower(shape, device, dtype, attn_implementation)
    model.generation_config.max_length, model.generation_config.pad_token_id = None, 0
    return model.eval().requires_grad_(False)


def _with_random_weights(cls, config, device: torch.device, dtype: torch.dtype):
    """Weights are made where they stay: those of 13 billion parameters fit into the machine once."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), device:
            model = cls(config)
    finally:
        torch.set_default_dtype(before)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.data.normal_(std=0.02)
        else:
            weight.data.fill_(0.0 if name.endswith("bias") else 1.0)
    return model
