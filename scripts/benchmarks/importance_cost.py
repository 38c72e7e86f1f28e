"""What the attention that patches receive costs, alongside one call of the attention and alongside the whole tower."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen2_5_VLVisionConfig, SiglipVisionConfig, SiglipVisionModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from llava.bench.shapes import HOSTS
from llava.pruning.importance import (
    Rotation,
    queries_and_keys,
    received,
    received_attention,
    received_in_torch,
    rotation,
    scale_of,
)

SIGLIP = {
    "siglip-so400m-384": {"image_size": 378, "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27},
    "siglip-tiny": {"image_size": 112, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
}
SIDE = 64  # patches of a side of Qwen2.5-VL's picture: 1,024 tokens


def importances(name: str, batch: int, device: torch.device) -> dict[str, Callable]:
    """By what it is, of a tower with random weights and a random batch: in float16 on a GPU, in float32 on a CPU.

    `importance` is all that a host adds to a run of the tower: queries, keys, their rotary positions, what is received.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    run, attention, patches, channels, rotate = (_qwen if name == "qwen2.5-vl" else partial(_siglip, name))(
        batch, device, dtype
    )
    hidden_states = torch.randn(batch, patches, channels).to(device, dtype)
    queries, keys = queries_and_keys(attention, hidden_states, rotate)
    values, scale = torch.randn_like(queries), scale_of(attention)
    return {
        "tower": run,
        "importance": lambda: received_attention(attention, hidden_states, rotate=rotate),
        "received": lambda: received(queries, keys, scale),
        "received, plain PyTorch": lambda: received_in_torch(queries, keys, scale),
        "scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(queries, keys, values, scale=scale),
    }


Parts = tuple[Callable, nn.Module, int, int, Rotation | None]  # the tower, its last attention, N, C, positions


def _siglip(name: str, batch: int, device: torch.device, dtype: torch.dtype) -> Parts:
    config = SiglipVisionConfig(patch_size=14, num_attention_heads=16, vision_use_head=False, **SIGLIP[name])
    with device:
        tower = SiglipVisionModel(config).to(dtype).eval()
    pixels = torch.randn(batch, 3, config.image_size, config.image_size).to(device, dtype)
    attention = next(module for module in reversed([*tower.modules()]) if hasattr(module, "k_proj"))
    return partial(tower, pixels), attention, (config.image_size // 14) ** 2, config.hidden_size, None


def _qwen(batch: int, device: torch.device, dtype: torch.dtype) -> Parts:
    config = Qwen2_5_VLVisionConfig(**HOSTS["Qwen2.5-VL-7B"].vision)
    config._attn_implementation = "sdpa"
    with device:
        tower = Qwen2_5_VisionTransformerPretrainedModel(config).to(dtype).eval()
    pixels = torch.randn(batch * SIDE**2, 3 * 2 * config.patch_size**2).to(device, dtype)
    grids = torch.tensor([[1, SIDE, SIDE]] * batch, device=device)
    angles = torch.rand(SIDE**2, config.hidden_size // config.num_heads, device=device)
    run = partial(tower, pixels, grid_thw=grids)
    return run, tower.blocks[-1].attn, SIDE**2, config.hidden_size, rotation(angles.cos(), angles.sin())
