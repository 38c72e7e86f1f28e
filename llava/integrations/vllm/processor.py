"""transformers' processor of LLaVA with this package's pixels and a request's pruning settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, LlavaConfig, LlavaProcessor, PreTrainedTokenizerBase

from llava.checkpoints.schemas import read_image_processor_values
from llava.integrations.vllm.settings import pack, read_budget
from llava.model.multimodal_encoder.clip_encoder import CLIPTowerImageProcessor
from llava.pruning.settings import takes_settings
from llava.vision.pixels import process_images


def patches_of_crop(config: LlavaConfig) -> int:
    """N: patches of a crop."""
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2


class VisPrunerLlavaProcessor(LlavaProcessor):
    """Pictures and pruning settings -> what the model takes.

    The image processor is the one that evaluates, over PIL: where torchvision is installed, transformers would take
    another, whose pixels differ, and with them which patches are kept.
    """

    @classmethod
    def from_folder(
        cls, folder: Path, tokenizer: PreTrainedTokenizerBase, config: LlavaConfig
    ) -> VisPrunerLlavaProcessor:
        """The processor of a folder that `prepare` wrote; `config` says how pictures become squares."""
        values = read_image_processor_values(folder) | {"do_pad": None}  # padding is `process_images`' business
        processor = cls(CLIPTowerImageProcessor.from_dict(values), tokenizer, config.vision_config.patch_size)
        processor.model_config = config
        return processor

    @takes_settings
    def __call__(
        self,
        images: Image.Image | list[Image.Image],
        *,
        return_tensors: str = "pt",
        **settings: Any,
    ) -> BatchFeature:
        """
        Args:
            images: one or several.
            settings: those of `llava.pruning.Settings`, by name.

        Returns: of each of n images
            pixel_values: (K, 3, H, W) float32, its K crops; a tensor (n, K, 3, H, W) where all have as many.
            image_sizes: (n, 2) int64, width and height.
            pruning_settings: (n, settings) int64, see `settings.pack`.

        Raises InputError for invalid settings, and a picture that cannot be used.
        """
        budget = read_budget({}, settings)  # in Python, any method
        images = [images] if isinstance(images, Image.Image) else list(images)
        pixels = process_images(images, self.image_processor, self.model_config)
        if isinstance(pixels, torch.Tensor) and pixels.ndim == 4:
            pixels = pixels.unsqueeze(1)
        row = pack(budget.settings_for(patches_of_crop(self.model_config)))
        features = {
            "pixel_values": pixels,
            "image_sizes": torch.tensor([image.size for image in images]),
            "pruning_settings": row.expand(len(images), -1).contiguous(),
        }
        return BatchFeature(features)
