"""The CLIP vision tower: patch features of one layer and, on demand, that layer's [CLS]-to-patch attention."""

from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava.model.multimodal_encoder.clip_text import TextSide
from llava.model.multimodal_encoder.vision_tower import VisionTower, received_in
from llava.pruning import Views
from llava.pruning.importance import paid_by_cls
from llava.pruning.views import square_grids
from llava.vision.processors import CLIPTowerImageProcessor


class _SelectedLayer:
    """The layer that LLaVA reads, run on K crops: N patches, C channels, H heads.

    Keys and the [CLS] row are computed separately, so that the layer itself can use any attention kernel.
    """

    def __init__(self, layer: nn.Module, hidden_states: torch.Tensor, layer_input: torch.Tensor) -> None:
        """Its output and input (K, 1 + N, C), [CLS] first."""
        self.layer, self.hidden_states, self.layer_input = layer, hidden_states, layer_input

    @cached_property
    def _normed(self) -> torch.Tensor:
        return self.layer.layer_norm1(self.layer_input)

    def _split_heads(self, tokens: torch.Tensor) -> torch.Tensor:
        """(K, tokens, C) -> (K, H, tokens, head width)."""
        return tokens.unflatten(-1, (self.layer.self_attn.num_heads, -1)).transpose(1, 2)

    @cached_property
    def _keys(self) -> torch.Tensor:
        return self._split_heads(self.layer.self_attn.k_proj(self._normed))

    @torch.no_grad()
    def mean_keys(self) -> torch.Tensor:
        """(K, 1 + N, head width): the keys, mean over heads."""
        return self._keys.mean(dim=1)

    @torch.no_grad()
    def cls_attention(self) -> torch.Tensor:  # [VisPruner]
        """(K, H, N) float32: attention of [CLS] to the patches, after the softmax over all 1 + N keys."""
        attention = self.layer.self_attn
        query = self._split_heads(attention.q_proj(self._normed[:, :1]))
        return paid_by_cls(query, self._keys, attention.scale)

    def importance(self) -> torch.Tensor:  # [VisPruner]
        """(K, N) float32: that attention, mean over heads."""
        return self.cls_attention().mean(dim=1)

    def received(self) -> torch.Tensor:
        """(K, N) float32: the attention that each patch receives, mean over all 1 + N queries and over the heads."""
        return received_in(self.layer, self.layer_input)[:, 1:]


class CLIPVisionTower(VisionTower):
    """CLIP's image encoder up to the layer that LLaVA reads (`mm_vision_select_layer`), frozen.

    Shapes: B images, N patches, C channels, H heads.
    """

    NAME = "CLIP"
    MODEL_TYPES = ("clip", "clip_vision_model")
    CONFIG = CLIPVisionConfig
    ENCODER = CLIPVisionModel
    FEATURES = ("patch", "cls_patch")

    def make_image_processor(self, values: dict) -> CLIPTowerImageProcessor:
        return CLIPTowerImageProcessor.from_values(values)

    @cached_property
    def text_side(self) -> TextSide:
        return TextSide.read(Path(self.vision_tower_name), self.hidden_size)

    def feature_select(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Tokens of the selected layer that are features: (B, 1 + N, C) -> (B, N, C), or all for `cls_patch`."""
        return hidden_states[:, 1:] if self.select_feature == "patch" else hidden_states

    @torch.no_grad()
    def forward(
        self, images: torch.Tensor | list[torch.Tensor], output_attentions: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor] | list:
        """Encode images.

        Args:
            images: (B, 3, height, width), or a list of (3, height, width) that are encoded one by one.
            output_attentions: also return the attention of [CLS] to the patches in the selected layer, after the
                softmax over all 1 + N keys and without the [CLS] column.

        Returns:
            Features (B, N, C) in the tower's dtype, or with `output_attentions` the pair of features and float32
            attention (B, H, N); for a list, a list of these with B = 1.
        """
        if isinstance(images, list):
            return [self(image.unsqueeze(0), output_attentions) for image in images]
        hidden_states, layer_input, _ = self.run(images.to(self.device, self.dtype))
        features, selected = self.feature_select(hidden_states), self._selected(hidden_states, layer_input)
        return (features, selected.cls_attention()) if output_attentions else features  # [VisPruner]

    def run(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(K, 1 + N, C): the selected layer's output, its input and the object layer's."""
        tower, layers = self.vision_tower, self._layers
        layer_input, object_input = self._inputs(layers, tower.pre_layrnorm(tower.embeddings(images)))
        return layers[-1](layer_input, None), layer_input, object_input

    def views(
        self, images: torch.Tensor, hidden_states: torch.Tensor, layer_input: torch.Tensor, object_input: torch.Tensor
    ) -> Views:
        """The views of crops (K, 3, height, width) in the selected layer.

        The features are (K, N, C), or with `cls_patch` (K, 1 + N, C), which cannot be pruned.
        """
        layers, selected = self._layers, self._selected(hidden_states, layer_input)
        return Views(
            self.feature_select(hidden_states),
            importance=selected.importance,  # [VisPruner]
            hidden_states=hidden_states,
            keys=selected.mean_keys,
            received=selected.received,
            object_received=lambda: received_in(layers[self._object_place(layers)], object_input)[:, 1:],
            grid=partial(square_grids, len(images), self.num_patches),
            pixels=images,
            image_embeds=lambda: self._embed(hidden_states[:, 1:]),
        )

    @torch.no_grad()
    def _embed(self, patches: torch.Tensor) -> torch.Tensor:
        """(K, N, C) of the selected layer -> CLIP's embeddings (K, N, E) float32."""
        return self.text_side.embed_patches(self.vision_tower.post_layernorm(patches))

    @property
    def _layers(self) -> nn.ModuleList:
        """Those up to and with the selected one."""
        return self.vision_tower.encoder.layers[: self._depth_of(self.config.num_hidden_layers)]

    def _selected(self, hidden_states: torch.Tensor, layer_input: torch.Tensor) -> _SelectedLayer:
        return _SelectedLayer(self._layers[-1], hidden_states, layer_input)


TOWER = CLIPVisionTower
