"""A Vision Transformer of DINOv2's kind -> a folder that this package's CLIP tower reads.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", arXiv 2304.07193. The two encoders differ
in four places:

- LayerScale multiplies what attention and MLP add to the stream, channel by channel: l * (W x + b) = (l W) x + l b. It
  goes into the weights and biases of `out_proj` and `fc2`.
- CLIP's patch embedding has no bias. Each patch has a position of its own, so the bias goes into those of the patches.
- The GELU is the exact one, which CLIP's config can say, as it can the epsilon of the layer norms.
- CLIP normalises the embeddings before its first layer (`pre_layrnorm`), and no weights make that the identity: a layer
  norm gives x and 2 x the same result. So the folder has no such weights, and `VitTower` no such layer. The CLIP tower
  itself refuses the folder, since it misses them.

Shapes: N patches, C channels.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionModel

from llava.errors import InputError, list_some
from llava.files import write_json
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower

if TYPE_CHECKING:
    from torch import Tensor

HEAD_WIDTH = 64  # of every DINOv2
EPSILON = 1e-6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_BICUBIC = 3
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias|lambda1)")
_PARTS = {
    "norm1": "layer_norm1",
    "attention.attention.query": "self_attn.q_proj",
    "attention.attention.key": "self_attn.k_proj",
    "attention.attention.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_SCALES = {"attention.output.dense": "layer_scale1", "mlp.fc2": "layer_scale2"}


class VitModel(CLIPVisionModel):
    """CLIP's image encoder without the layer norm before its first layer."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.pre_layrnorm = nn.Identity()


class VitTower(CLIPVisionTower):
    """The CLIP tower on a folder that `write_folder` wrote."""

    NAME = "a converted ViT"
    ENCODER = VitModel


def to_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a DINOv2, by the names of the published checkpoints, as those of `VitModel`.

    Raises InputError, naming them, for weights that are missing or have no place, such as those of a gated MLP.
    """
    rest = dict(weights)
    rest.pop("embeddings.mask_token", None)  # of the training alone

    def take(name: str) -> Tensor:
        if name not in rest:
            raise InputError(f"the ViT has no {name}")
        return rest.pop(name)

    positions = take("embeddings.position_embeddings")[0].clone()
    positions[1:] += take("embeddings.patch_embeddings.projection.bias")
    clip = {
        "embeddings.class_embedding": take("embeddings.cls_token")[0, 0],
        "embeddings.patch_embedding.weight": take("embeddings.patch_embeddings.projection.weight"),
        "embeddings.position_embedding.weight": positions,
    }
    for layer in range(_depth(weights)):
        for theirs, ours in _PARTS.items():
            source, target = f"encoder.layer.{layer}", f"encoder.layers.{layer}.{ours}"
            weight, bias = (take(f"{source}.{theirs}.{kind}") for kind in ("weight", "bias"))
            if theirs in _SCALES:
                scale = take(f"{source}.{_SCALES[theirs]}.lambda1")
                weight, bias = scale.unsqueeze(1) * weight, scale * bias
            clip |= {f"{target}.weight": weight, f"{target}.bias": bias}
    clip |= {f"post_layernorm.{kind}": take(f"layernorm.{kind}") for kind in ("weight", "bias")}
    if rest:
        raise InputError(f"the ViT has weights that CLIP has no place for: {list_some(rest)}")
    return clip


def _depth(weights: dict[str, Tensor]) -> int:
    return 1 + max((int(found[1]) for name in weights if (found := _LAYER.fullmatch(name))), default=-1)


def clip_config(clip: dict[str, Tensor]) -> dict:
    """The values of `config.json` for weights that `to_clip` gave. Raises InputError if the patches are no square."""
    channels, _, patch, _ = clip["embeddings.patch_embedding.weight"].shape
    patches = len(clip["embeddings.position_embedding.weight"]) - 1
    side = math.isqrt(patches)
    if side * side != patches or channels % HEAD_WIDTH:
        raise InputError(f"{patches} patches of {channels} channels are not those of a DINOv2")
    return {
        "model_type": "clip_vision_model",
        "architectures": ["CLIPVisionModel"],
        "hidden_size": channels,
        "intermediate_size": len(clip["encoder.layers.0.mlp.fc1.bias"]),
        "num_hidden_layers": sum(name.endswith("fc1.bias") for name in clip),
        "num_attention_heads": channels // HEAD_WIDTH,
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": EPSILON,
    }


def write_folder(weights: dict[str, Tensor], folder: Path) -> None:
    """Write such weights as a tower's folder, `config.json` last.

    Raises InputError as `to_clip` and `clip_config` do.
    """
    clip = to_clip(weights)
    config = clip_config(clip)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in clip.items()}, folder / "model.safetensors")
    size = config["image_size"]
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "do_convert_rgb": True,
    }
    write_json(folder / "preprocessor_config.json", processor)
    write_json(folder / "config.json", config)
