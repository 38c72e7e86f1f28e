"""The published models' shapes."""

from dataclasses import dataclass


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
