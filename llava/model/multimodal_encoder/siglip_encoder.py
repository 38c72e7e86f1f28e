"""The SigLIP vision tower of LLaVA-OneVision and LLaVA-NeXT checkpoints: no [CLS], so importance is attention received.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, arXiv 2303.15343. Checkpoints hold the layers
up to the one that LLaVA reads and no pooling head; the tower's own folder has all.
"""

from functools import partial

import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from llava.model.multimodal_encoder.vision_tower import VisionTower, received_in
from llava.pruning import Views
from llava.pruning.views import square_grids
from llava.vision.processors import SigLipTowerImageProcessor


class SigLipVisionTower(VisionTower):
    """SigLIP's image encoder up to the layer that LLaVA reads, frozen. K crops, N patches, C channels, H heads."""

    NAME = "SigLIP"
    MODEL_TYPES = ("siglip", "siglip_vision_model")
    CONFIG = SiglipVisionConfig
    ENCODER = SiglipVisionModel
    FEATURES = ("patch",)

    def _read_config(self) -> SiglipVisionConfig:
        config = super()._read_config()
        config.num_hidden_layers = self._depth_of(config.num_hidden_layers)
        config.vision_use_head = False
        return config

    def make_image_processor(self, values: dict) -> SigLipTowerImageProcessor:
        return SigLipTowerImageProcessor.from_values(values)

    @torch.no_grad()
    def forward(self, images: torch.Tensor | list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        """Features (K, N, C) of images (K, 3, height, width); for a list of (3, height, width) a list with K = 1."""
        if isinstance(images, list):
            return [self(image.unsqueeze(0)) for image in images]
        return self.encode(images).features

    def run(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(K, N, C): the selected layer's output, its input and the object layer's."""
        tower, layers = self.vision_tower, self.vision_tower.encoder.layers
        layer_input, object_input = self._inputs(layers, tower.embeddings(images))
        return layers[-1](layer_input, None), layer_input, object_input

    def views(
        self, images: torch.Tensor, features: torch.Tensor, layer_input: torch.Tensor, object_input: torch.Tensor
    ) -> Views:
        """What the selected layer says of crops (K, 3, height, width)."""
        layers = self.vision_tower.encoder.layers
        importance = partial(received_in, layers[-1], layer_input)
        return Views(
            features,
            importance=importance,  # [VisPruner]
            received=importance,
            object_received=partial(received_in, layers[self._object_place(layers)], object_input),
            grid=partial(square_grids, len(images), self.num_patches),
            pixels=images,
        )


TOWER = SigLipVisionTower
