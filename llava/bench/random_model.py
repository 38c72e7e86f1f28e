"""Models with random weights in the published models' shapes, built on the device that is measured."""

import json
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection
from transformers.initialization import no_init_weights

from llava.bench.shapes import Shape
from llava.model.families.llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.multimodal_encoder.builder import open_vision_tower
from llava.model.multimodal_encoder.clip_text import TextSide


def build_tower(shape: Shape, device: torch.device, dtype: torch.dtype, attn_implementation: str = "sdpa") -> nn.Module:
    """The vision tower alone, without an image processor."""
    config = {
        "model_type": "clip_vision_model",
        "hidden_size": shape.vision_width,
        "intermediate_size": 4 * shape.vision_width,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": shape.vision_heads,
        "image_size": shape.image_size,
        "patch_size": 14,
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        tower = open_vision_tower(Path(folder), SimpleNamespace(mm_vision_select_layer=-2), delay_load=True)
    with _weights_on(device, dtype):
        tower.build_unloaded(attn_implementation)
    _fill_with_random_weights(tower)
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
    with _weights_on(device, dtype):
        model = LlavaLlamaForCausalLM(config)
    _fill_with_random_weights(model)
    model.model.vision_tower = build_tower(shape, device, dtype, attn_implementation)
    model.tokenizer = RandomTokens(shape.vocabulary)
    model.generation_config.max_length, model.generation_config.pad_token_id = None, 0
    return model.eval().requires_grad_(False)


def build_text_side(shape: Shape, device: torch.device) -> TextSide:
    """CLIP ViT-L/14's text tower and the projections for a tower of this shape, for methods that ask for them."""
    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
    with _weights_on(device, torch.float32):
        tower = CLIPTextModelWithProjection(config)
    _fill_with_random_weights(tower)
    tokenizer = RandomTokens(config.vocab_size)
    return TextSide(lambda text: tokenizer(text).input_ids, tower, torch.randn(768, shape.vision_width, device=device))


@dataclass(frozen=True)
class RandomTokens:
    """The tokenizer of random weights: every word of a text is one token, and no token has a text."""

    vocabulary: int
    bos_token_id: ClassVar[None] = None

    def __call__(self, text: str, **_) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[zlib.crc32(word.encode()) % self.vocabulary for word in text.split()])

    def decode(self, ids: list[int], **_) -> str:
        return ""


@contextmanager
def _weights_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Weights are made where they stay: those of 13 billion parameters fit into the machine once."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), device:
            yield
    finally:
        torch.set_default_dtype(before)


def _fill_with_random_weights(model: nn.Module) -> None:
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.data.normal_(std=0.02)
        else:
            weight.data.fill_(0.0 if name.endswith("bias") else 1.0)
