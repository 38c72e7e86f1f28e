"""Models with M-RoPE, whose kept tokens have the positions that they have unpruned.

Text behind a picture stands behind its whole grid, whatever is kept, so that vLLM knows its position before the tower
has run. Of the kept tokens it knows the grid's corner: how far from there each is, in time, rows and columns, travels
behind the token as six more channels, two digits each, which every half precision has exactly.

Shapes: n kept tokens of a picture, F frames, N tokens of a frame, D channels of a token.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MultiModalEmbeddings
from vllm.multimodal.inputs import MultiModalFeatureSpec
from vllm.sequence import IntermediateTensors

from llava.integrations.vllm.hosts.base import PATCHES_TOGETHER, PIXELS, PrunedModel
from llava.integrations.vllm.settings import choose, unpack
from llava.integrations.vllm.tower import mean_over_ranks, watching
from llava.pruning import Views, keep_patches
from llava.pruning.importance import received

_BASE, _DIGITS = 128, 6


class PrunedMRoPE(PrunedModel):
    """Comes before a model's own class."""

    tower_name = "visual"
    supports_mm_device_do_normalize = False  # methods read pixels, and to the last bit: see `random`

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        steps = torch.zeros(3, vllm_config.scheduler_config.max_num_batched_tokens, dtype=torch.long)
        self.register_buffer("steps", steps, persistent=False)  # a place of its own, for CUDA graphs

    # What differs between hosts

    def segments(self, frames: int, height: int, width: int) -> list[int]:
        """The patches that attend to one another in the tower's last layer, in the order in which it has them."""
        return [height * width] * frames

    def in_raster_order(self, of_tokens: torch.Tensor, frames: int, height: int, width: int) -> torch.Tensor:
        """(F N,) of tokens in the order in which the tower's layers have them."""
        return of_tokens

    def time_between(self, modality: str, given: dict, index: int) -> float:
        """How far one frame's position is from the last one's."""
        return 0

    # From pixels to kept tokens

    def embed_pictures(self, modality: str, given: dict) -> Iterator[torch.Tensor]:
        """The kept tokens of each picture, (n, D + 6)."""
        pixels, grids = given[PIXELS[modality]], given[f"{modality}_grid_thw"]
        pixels = pixels.split(grids.prod(dim=1).tolist())
        times = [self.time_between(modality, given, i) for i in range(len(grids))]
        for batch in self._batches([len(part) for part in pixels]):
            with watching(self.visual.blocks[-1].attn.attn) as watched:
                tokens = self._run_tower(modality, torch.cat(pixels[batch]), grids[batch])
            queries, keys = (part[0].split(list(map(len, pixels[batch]))) for part in watched)
            rows = given[f"{modality}_pruning"][batch]
            for i, row in enumerate(rows):
                importance = partial(self._importance, queries[i], keys[i], grids[batch][i].tolist())
                yield self._prune(tokens[i], pixels[batch][i], grids[batch][i], row, importance, times[batch][i])

    def _batches(self, patches: list[int]) -> Iterator[slice]:
        """Pictures that are encoded at once, of these numbers of patches."""
        start, number = 0, 0
        for i, own in enumerate(patches):
            if i > start and (self.encodes_one_by_one or number + own > PATCHES_TOGETHER):
                yield slice(start, i)
                start, number = i, 0
            number += own
        yield slice(start, len(patches))

    def _run_tower(self, modality: str, pixels: torch.Tensor, grids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        name = PIXELS[modality]
        given = {"type": name, name: pixels, f"{modality}_grid_thw": grids}
        return getattr(self, f"_process_{modality}_input")(given)

    def _importance(self, queries: torch.Tensor, keys: torch.Tensor, grid: list[int]) -> torch.Tensor:
        """(F, N) float32: the attention that a token's patches receive, mean over the queries of a frame and heads."""
        frames, height, width = grid
        attention, merged = self.visual.blocks[-1].attn, self.visual.spatial_merge_size**2
        lengths, scale = self.segments(*grid), attention.hidden_size_per_attention_head**-0.5
        sums = [
            received(q.transpose(0, 1)[None], k.transpose(0, 1)[None], scale)[0]
            for q, k in zip(queries.split(lengths), keys.split(lengths), strict=True)
        ]
        of_patches = mean_over_ranks(torch.cat(sums) / (height * width), attention.tp_size)
        return self.in_raster_order(of_patches.unflatten(0, (-1, merged)).mean(dim=1), *grid).view(frames, -1)

    def _prune(
        self,
        tokens: torch.Tensor,
        pixels: torch.Tensor,
        grid: torch.LongTensor,
        row: torch.LongTensor,
        importance: Callable[[], torch.Tensor],
        time: float,
    ) -> torch.Tensor:
        """(n, D + 6) of a picture's tokens (F N, D), which may have more channels than the language model (deepstack).

        Args:
            row: of `settings.pack`.
            time: between frames.
        """
        settings, side = unpack(row, self.server_settings), self.visual.spatial_merge_size
        frames, height, width = grid.tolist()
        height, width = height // side, width // side
        tokens = tokens.view(frames, height * width, -1)
        features = tokens[..., : self.config.get_text_config().hidden_size]
        views = Views(
            features,
            importance=importance,
            pixels=self.visual.input_norm(pixels, self.visual.dtype).view(frames, -1, pixels.shape[-1]),
            projected=features,
            grid=torch.tensor([[height, width]] * frames),
        )
        patches = choose(views, settings).patches
        times = (torch.arange(frames, device=patches.device) * time).long()
        steps = torch.stack([times[:, None].expand_as(patches), patches // width, patches % width], dim=-1)
        digits = torch.cat([steps // _BASE, steps % _BASE], dim=-1).to(tokens)
        return torch.cat([keep_patches(tokens, patches), digits], dim=-1).flatten(0, 1)

    # Positions

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[MultiModalFeatureSpec]
    ) -> tuple[torch.Tensor, int]:
        """(3, tokens), in which kept tokens have their grid's corner, and how far decoding is from counting on."""
        whole, columns, features, done = [], [], [], 0  # the prompt unpruned, and which of it each token is
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            place = feature.mm_position
            before = input_tokens[done : place.offset]
            columns += range(len(whole), len(whole) + len(before))
            whole += before
            done, start = place.offset + place.length, len(whole)
            own, inside = self._unpruned(input_tokens[place.offset : done], feature)
            columns += [start + column for column in inside]
            whole += own
            features.append(replace(feature, mm_position=replace(place, offset=start, length=len(own), is_embed=None)))
        columns += range(len(whole), len(whole) + len(input_tokens) - done)
        whole += input_tokens[done:]
        positions, delta = super().get_mrope_input_positions(whole, features)
        return positions[:, columns], delta + len(whole) - len(input_tokens)

    def _unpruned(self, tokens: list[int], feature: MultiModalFeatureSpec) -> tuple[list[int], list[int]]:
        """What stands for a picture, with all its placeholders, and for each of its `tokens` the column there."""
        is_kept = feature.mm_position.is_embed
        is_kept = [True] * len(tokens) if is_kept is None else is_kept.tolist()
        runs = [(kept, [i for i, _ in run]) for kept, run in groupby(enumerate(is_kept), key=lambda pair: pair[1])]
        grid = feature.data[f"{feature.modality}_grid_thw"].data
        number = int(grid.prod()) // self.visual.spatial_merge_size**2 // sum(kept for kept, _ in runs)
        whole, columns = [], []
        for kept, places in runs:
            start, length = len(whole), number if kept else len(places)
            columns += [start] * len(places) if kept else range(start, start + length)
            whole += [tokens[places[0]]] * length if kept else [tokens[i] for i in places]
        return whole, columns

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: MultiModalEmbeddings | None = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As vLLM has it. What kept tokens have behind them is noted for `forward`."""
        self.steps.zero_()  # each time: what they were may have been thrown away
        if multimodal_embeddings is not None and len(multimodal_embeddings):
            digits = torch.cat([tokens[:, -_DIGITS:] for tokens in multimodal_embeddings]).round().long()
            steps = digits[:, :3] * _BASE + digits[:, 3:]
            is_own = is_multimodal.to(self.steps.device).expand(3, -1)
            self.steps[:, : len(input_ids)].masked_scatter_(is_own, steps.T.contiguous())
            multimodal_embeddings = [tokens[:, :-_DIGITS] for tokens in multimodal_embeddings]
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        """As vLLM has it, with positions (3, tokens)."""
        positions = positions + self.steps[:, : positions.shape[-1]]
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)
