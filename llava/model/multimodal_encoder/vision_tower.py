"""What every vision tower shares: a folder -> its encoder, up to the layer that LLaVA reads, and image processor."""

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from llava.checkpoints.folders import find_folder
from llava.checkpoints.schemas import VisionFile, check, read_image_processor_values, tower_model_type
from llava.checkpoints.weights import load_tower_weights
from llava.errors import InputError, one_line
from llava.files import read_json_object
from llava.pruning import Views
from llava.pruning.importance import object_place, received_attention


class VisionTower(nn.Module):
    """An image encoder up to the layer that LLaVA reads (`mm_vision_select_layer`), frozen.

    A tower's class adds the attributes below, `run` and `views`, or else `encode` itself, which is not recorded then.
    Shapes: K crops, N patches, C channels.
    """

    NAME: ClassVar[str]
    """For messages."""
    MODEL_TYPES: ClassVar[tuple[str, ...]]
    """The `model_type` values of the configs that are read."""
    CONFIG: ClassVar[type[PreTrainedConfig]]
    ENCODER: ClassVar[type[PreTrainedModel]]
    FEATURES: ClassVar[tuple[str, ...]]
    """The values of `mm_vision_select_feature` that the tower has."""

    def __init__(self, vision_tower: str | Path, args, delay_load: bool = False):
        """`vision_tower` is a folder or hub id; `args` holds `mm_vision_select_layer` and perhaps `_feature`."""
        super().__init__()
        self.is_loaded = False
        self.vision_tower_name = str(find_folder(str(vision_tower), "vision tower"))
        self.select_layer = args.mm_vision_select_layer
        self.select_feature = getattr(args, "mm_vision_select_feature", "patch")
        if self.select_feature not in self.FEATURES:
            known = " or ".join(map(repr, self.FEATURES))
            raise InputError(f"mm_vision_select_feature of {self.NAME} must be {known}, not {self.select_feature!r}")
        self.cfg_only = self._read_config()
        if not delay_load:
            self.load_model()

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> Views:
        """The views of crops (K, 3, height, width) in the selected layer."""
        return self.views(images, *self.run(images.to(self.device, self.dtype)))

    def run(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `views` needs, of K crops, for pixels of the tower's device and dtype; a CUDA graph on a GPU."""
        raise NotImplementedError

    def views(self, images: torch.Tensor, *ran: torch.Tensor) -> Views:
        """The views of crops, by what `run` gave of them."""
        raise NotImplementedError

    @property
    def is_recordable(self) -> bool:
        """Whether `encode` is `run` and `views`."""
        return type(self).encode is VisionTower.encode

    @property
    def text_side(self):
        """What embeds texts and patches alike (see `clip_text.TextSide`). Raises InputError if the tower has none."""
        raise InputError(
            f"the vision tower {self.vision_tower_name} is {self.NAME}: the pruning method needs a CLIP that has its "
            "text tower and projections"
        )

    def make_image_processor(self, values: dict):
        """The image processor of these values of its config file."""
        raise NotImplementedError

    def _read_config(self) -> PreTrainedConfig:
        values = read_json_object(Path(self.vision_tower_name) / "config.json", "config")
        if (model_type := tower_model_type(values)) not in self.MODEL_TYPES:
            raise InputError(f"the vision tower {self.vision_tower_name} is not {self.NAME} but {model_type!r}")
        vision = values.get("vision_config", values)
        where = f"the config {Path(self.vision_tower_name) / 'config.json'}"
        if not isinstance(vision, dict):
            raise InputError(f"{where}: vision_config is not an object")
        check(vision, VisionFile, where)
        try:
            config = self.CONFIG.from_dict(vision)
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
            raise InputError(f"{where}: {one_line(error)}") from error
        layers = config.num_hidden_layers
        if not -layers <= self.select_layer <= layers or self.select_layer == 0:
            raise InputError(f"mm_vision_select_layer {self.select_layer} is outside the tower's {layers} layers")
        return config

    def load_model(
        self,
        device_map=None,
        dtype: torch.dtype | None = None,
        state_dict: dict[str, torch.Tensor] | None = None,
        attn_implementation: str | None = None,
    ) -> None:
        """Load weights and image processor; does nothing the second time.

        Args:
            device_map: the device, or {"": device}; CPU if None.
            dtype: the weights' dtype; float32 if None.
            state_dict: a fine-tuned tower's weights, to be used in place of those in the tower's folder.
            attn_implementation: as in transformers; its own choice (SDPA) if None.

        Raises InputError if weights are missing, unexpected, or of the wrong shape.
        """
        if self.is_loaded:
            return
        self.vision_tower = load_tower_weights(
            self.ENCODER,
            self.cfg_only,
            self.vision_tower_name,
            state_dict,
            device_map=device_map,
            dtype=dtype or torch.float32,
            attn_implementation=attn_implementation,
        )
        self.vision_tower.requires_grad_(False)
        _ = self.image_processor
        self.is_loaded = True

    def build_unloaded(self, attn_implementation: str) -> None:
        """Build the encoder without weights, for a benchmark that fills in its own."""
        self.cfg_only._attn_implementation = attn_implementation
        self.vision_tower = self.ENCODER(self.cfg_only)
        self.is_loaded = True

    @cached_property
    def image_processor(self):
        """The tower's image processor. Raises InputError if it cannot be, or its crops are not the tower's size."""
        folder = Path(self.vision_tower_name)
        values = read_image_processor_values(folder)
        try:
            processor = self.make_image_processor(values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"the image processor config of {folder} is unusable: {one_line(error)}") from error
        if processor.side != self.image_size:
            raise InputError(f"{folder}: crops of {processor.side} pixels, but the tower takes {self.image_size}")
        return processor

    def _depth_of(self, layers: int) -> int:
        """How many of so many layers run: hidden state k is layer k's output, and negative k count from the end."""
        return self.select_layer if self.select_layer > 0 else layers + 1 + self.select_layer

    def _inputs(self, layers: nn.ModuleList, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inputs (K, L, C) of the last of `layers` and of the object layer; those before the last run."""
        place = self._object_place(layers)
        for layer in layers[:place]:
            hidden_states = layer(hidden_states, None)
        of_object = hidden_states
        for layer in layers[place:-1]:
            hidden_states = layer(hidden_states, None)
        return hidden_states, of_object

    def _object_place(self, layers: nn.ModuleList) -> int:
        return object_place(self.config.num_hidden_layers, len(layers))

    @property
    def dummy_feature(self) -> torch.Tensor:
        """(1, C) of zeros."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self.vision_tower.dtype

    @property
    def device(self) -> torch.device:
        return self.vision_tower.device

    @property
    def config(self) -> PreTrainedConfig:
        return self.vision_tower.config if self.is_loaded else self.cfg_only

    @property
    def hidden_size(self) -> int:
        """C."""
        return self.config.hidden_size

    @property
    def image_size(self) -> int:
        """Pixels along one side of a crop."""
        return self.config.image_size

    @property
    def num_patches_per_side(self) -> int:
        return self.config.image_size // self.config.patch_size

    @property
    def num_patches(self) -> int:
        """N."""
        return self.num_patches_per_side**2


@torch.no_grad()
def received_in(layer: nn.Module, layer_input: torch.Tensor) -> torch.Tensor:
    """(K, L) float32: the attention that each of L tokens receives in a layer of CLIP or SigLIP on (K, L, C)."""
    return received_attention(layer.self_attn, layer.layer_norm1(layer_input))
