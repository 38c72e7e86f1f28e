"""LLaVA in vLLM: vLLM's CLIP and language model, and between them a method of `llava.pruning`.

Shapes: I images, K crops of one image, N patches, T kept tokens, D model channels.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.activation import get_act_fn
from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.clip import CLIPVisionModel
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsLoRA, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    get_layer_index,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from llava.checkpoints.hf.names import published_name_patterns
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.integrations.vllm import TOWER_FOLDER
from llava.integrations.vllm.processing import (
    VisPrunerLlavaDummyInputs,
    VisPrunerLlavaMultiModalProcessor,
    VisPrunerLlavaProcessingInfo,
)
from llava.integrations.vllm.settings import choose, unpack
from llava.integrations.vllm.tower import encode, use_plain_kernels
from llava.model.anyres import merge_crops
from llava.model.encode import encodes_one_by_one
from llava.pruning import MergedTokens, Settings, VisualTokens
from llava.vision.grids import get_anyres_image_grid_shape

_CROPS_TOGETHER = 16  # encoded at once: vLLM counts the tokens that are kept, which says little of a tower's memory
# Names of weights in either layout -> in this model, which has those of llava-hf's files. None: what it does not have.
_NAMES = {
    r"(rotary_emb\.inv_freq|position_ids)$": None,
    r"^vision_tower\.(text_model\.|text_projection|visual_projection|logit_scale)": None,  # the rest of a whole CLIP
    **published_name_patterns(),
    r"^image_newline$": None,  # `spatial` has none
}


class Projector(nn.Module):
    """Vision channels -> model channels, split over the ranks of tensor parallelism."""

    def __init__(self, config, quant_config, prefix: str) -> None:
        super().__init__()
        vision, text = config.vision_config.hidden_size, config.text_config.hidden_size
        options = {"bias": True, "quant_config": quant_config}
        self.linear_1 = ColumnParallelLinear(vision, text, prefix=f"{prefix}.linear_1", **options)
        self.act = get_act_fn(config.projector_hidden_act)
        self.linear_2 = RowParallelLinear(text, text, prefix=f"{prefix}.linear_2", **options)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(features)[0]))[0]


@MULTIMODAL_REGISTRY.register_processor(
    VisPrunerLlavaMultiModalProcessor, info=VisPrunerLlavaProcessingInfo, dummy_inputs=VisPrunerLlavaDummyInputs
)
class VisPrunerLlavaForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsPP, SupportsLoRA):
    """LLaVA on any decoder that vLLM has, from a folder that `prepare` wrote."""

    hf_to_vllm_mapper = WeightsMapper(orig_to_new_regex={re.compile(name): new for name, new in _NAMES.items()})
    packed_modules_mapping = {  # noqa: RUF012 - vLLM reads it from the class
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return DEFAULT_IMAGE_TOKEN if modality == "image" else None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model_config, quant_config = vllm_config.model_config, vllm_config.quant_config
        self.config = config = model_config.hf_config
        self.server_settings = model_config.multimodal_config.mm_processor_kwargs
        self.configure_mm_token_handling(config.text_config.vocab_size, [config.image_token_index])
        if config.tower_folder:
            own = {re.compile(r"^model\.vision_tower\."): None, **self.hf_to_vllm_mapper.orig_to_new_regex}
            self.hf_to_vllm_mapper = WeightsMapper(orig_to_new_regex=own)
            where = {"revision": model_config.revision, "subfolder": TOWER_FOLDER, "prefix": "vision_tower."}
            self.secondary_weights = [DefaultModelLoader.Source(model_config.model, **where)]
        with self._mark_tower_model(vllm_config, "image"):
            depth = get_layer_index(config.vision_feature_layer, config.vision_config.num_hidden_layers)
            self.vision_tower = CLIPVisionModel(
                config.vision_config,
                quant_config,
                num_hidden_layers_override=depth,
                require_post_norm=False,
                prefix=maybe_prefix(prefix, "vision_tower"),
            )
            self.multi_modal_projector = Projector(config, quant_config, maybe_prefix(prefix, "multi_modal_projector"))
        self.encodes_one_by_one = encodes_one_by_one(model_config.dtype, training=False)
        if self.encodes_one_by_one:
            use_plain_kernels(self.vision_tower)
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config, hf_config=config.text_config, prefix=maybe_prefix(prefix, "language_model")
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """The visual tokens of each image, as the language model takes them: I tensors (length, D).

        Args:
            kwargs: `pixel_values`, `image_sizes` and `pruning_settings` of I images, as the processor gives them: one
                tensor, or a list where the images' numbers of crops are not the same.
        """
        if kwargs.get("pixel_values") is None:
            return []
        rows = [unpack(row, self.server_settings) for row in kwargs["pruning_settings"]]
        sizes = [tuple(size.tolist()) for size in kwargs["image_sizes"]]
        images = list(zip(kwargs["pixel_values"], sizes, rows, strict=True))
        return [tokens for batch, settings in self._batches(images) for tokens in self._embed(batch, settings)]

    def _batches(self, images: list[tuple]) -> Iterator[tuple[list[tuple], Settings]]:
        """Images that are encoded at once, in order: of the same settings, and one by one where that is the rule."""
        for settings, group in groupby(images, lambda image: image[2]):
            batch, crops = [], 0
            for image in group:
                number = len(image[0])
                if batch and (self.encodes_one_by_one or crops + number > _CROPS_TOGETHER):
                    yield batch, settings
                    batch, crops = [], 0
                batch.append(image)
                crops += number
            yield batch, settings

    def _embed(self, images: list[tuple], settings: Settings) -> list[torch.Tensor]:
        """Encode, select, project and join the crops of images with these settings."""
        numbers = [len(pixels) for pixels, *_ in images]
        views = encode(self.vision_tower, torch.cat([pixels for pixels, *_ in images]))
        chosen = choose(views.project_by(self.multi_modal_projector), settings).project(self.multi_modal_projector)
        return [self._join(part, image[1]) for part, image in zip(chosen.split(numbers), images, strict=True)]

    def _join(self, chosen: VisualTokens | MergedTokens, size: tuple[int, int]) -> torch.Tensor:
        """One sequence (K * T, D) of the tokens (K, T, D) of an image of `size` (W, H)."""
        config = self.config
        if config.mm_patch_merge_type != "spatial" or len(chosen.tokens) == 1 or not chosen.has_places:
            return chosen.tokens.flatten(0, 1)
        vision = config.vision_config
        grid = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, vision.image_size)
        return merge_crops(chosen.tokens, chosen.patches, grid, vision.image_size // vision.patch_size, size)

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: MultiModalEmbeddings | None = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As vLLM has it. A placeholder that no picture belongs to has no embedding: it is the unknown token's.

        The checkpoint's own `<image>` and padding come after its vocabulary, and a client may write them.
        """
        beyond = input_ids >= self.config.text_config.vocab_size
        if is_multimodal is not None:
            beyond &= ~is_multimodal.to(beyond.device)
        ids = input_ids.masked_fill(beyond, self.config.unknown_token)
        return super().embed_input_ids(ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        embeds = None if intermediate_tensors is not None else inputs_embeds
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
