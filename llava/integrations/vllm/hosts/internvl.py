"""InternVL in vLLM with pruned pictures and videos: tiles of one size, or frames, and a tower with a [CLS].

It is vLLM's class for InternVL in transformers' layout, which is that of Intern-S1 too.

Shapes: K tiles, or frames, N tokens of each, T kept ones, D channels of a token.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from transformers import BatchFeature
from vllm.config import VllmConfig
from vllm.model_executor.models import interns1 as own
from vllm.model_executor.models.interfaces import MultiModalEmbeddings
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalKwargsItem, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import PromptUpdate, PromptUpdateDetails

from llava.integrations.transformers.hosts.vit import pool_mean
from llava.integrations.vllm.hosts.base import MODALITIES, PATCHES_TOGETHER, PIXELS, PrunedInfo, PrunedProcessor
from llava.integrations.vllm.settings import choose, own_settings, unpack
from llava.integrations.vllm.tower import heads_of, use_plain_kernels, watching
from llava.model.encode import encodes_one_by_one
from llava.pruning import Views
from llava.pruning.importance import paid_by_cls
from llava.pruning.settings import NAMES
from llava.pruning.views import square_grids


class Info(PrunedInfo, own.InternS1ProcessingInfo):
    def get_hf_processor(self, **kwargs: object) -> own.InternVLProcessor:
        return super().get_hf_processor(**{name: value for name, value in kwargs.items() if name not in NAMES})


class Processor(PrunedProcessor, own.InternS1MultiModalProcessor):
    """Puts as many placeholders into a prompt as its settings keep of all tiles of an image, and of each frame."""

    def crops(self, modality: str, data: BatchFeature) -> list[tuple[int, int]]:
        patches, numbers = self.info.get_hf_processor().image_seq_length, data.get(f"{modality}_num_patches", ())
        return [(patches, int(number) if modality == "image" else 1) for number in numbers]

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        """vLLM's own, with shorter runs of placeholders."""
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [self._shortened(update, out_mm_kwargs.get(update.modality, ())) for update in updates]

    def _shortened(self, update: PromptUpdate, items: Sequence[MultiModalKwargsItem]) -> PromptUpdate:
        patches = self.info.get_hf_processor().image_seq_length

        def replacement(index: int) -> PromptUpdateDetails:
            whole, settings = update.replacement(index), self._settings(update.modality, items[index])
            left: list[int] = []
            for is_own, run in groupby(zip(whole.is_embed(whole.full).tolist(), whole.full), key=lambda pair: pair[0]):
                ids = [number for _, number in run]
                left += ids[: settings.kept(patches, len(ids) // patches)] if is_own else ids
            return replace(whole, full=left)

        return replace(update, replacement=replacement)

    def _settings(self, modality: str, item: MultiModalKwargsItem):
        return unpack(item[f"{modality}_pruning"].data, self.info.server_settings)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=own.InternS1DummyInputsBuilder)
class InternVLForConditionalGeneration(own.InternS1ForConditionalGeneration):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        model = vllm_config.model_config
        self.server_settings = own_settings(model.multimodal_config.mm_processor_kwargs)
        self.encodes_one_by_one = encodes_one_by_one(model.dtype, training=False)
        if self.encodes_one_by_one:
            use_plain_kernels(self.vision_tower)

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """The kept tokens of each image, and of all frames of each video, (n, D)."""
        return tuple(kept for modality in MODALITIES for kept in self._embed(modality, kwargs))

    def _embed(self, modality: str, given: dict) -> Iterator[torch.Tensor]:
        if (pixels := given.get(PIXELS[modality])) is None:
            return
        views, start = self._encode(pixels), 0
        for number, row in zip(given[f"{modality}_num_patches"].tolist(), given[f"{modality}_pruning"], strict=True):
            settings, end = unpack(row, self.server_settings), start + number
            step = number if modality == "image" else 1  # a frame has a budget of its own
            parts = [views.crops(slice(first, first + step)) for first in range(start, end, step)]
            yield torch.cat([choose(part, settings).tokens.flatten(0, 1) for part in parts])
            start = end

    def _encode(self, pixels: torch.Tensor) -> Views:
        """Of tiles (K, 3, height, width)."""
        of_tile = self.num_image_token / self.downsample_ratio**2
        together = 1 if self.encodes_one_by_one else max(1, int(PATCHES_TOGETHER / of_tile))
        return Views.joined([self._run_tower(part) for part in pixels.split(together)])

    def _run_tower(self, pixels: torch.Tensor) -> Views:
        attention = self.vision_tower.encoder.layer[-1].attention
        with watching(attention.attn) as watched:
            tokens = self.extract_feature(pixels)

        def importance() -> torch.Tensor:
            """(K, N) float32: the attention of [CLS] to the patches, mean over heads and over a token's patches."""
            query, key = heads_of(watched, attention.head_dim)
            of_patches = paid_by_cls(query[:, :, :1], key, attention.scale).mean(dim=1)
            return pool_mean(of_patches, round(1 / self.downsample_ratio))

        grid = square_grids(*tokens.shape[:2])
        return Views(tokens, importance=importance, pixels=pixels, projected=tokens, grid=grid)
