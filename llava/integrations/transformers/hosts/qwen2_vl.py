"""Qwen2-VL: pictures and videos of any size, 2 x 2 patches merged into a token, M-RoPE.

A frame is what its tower sees at once: an image, or one of the time steps of a video.
"""

import functools
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture
from llava.integrations.transformers.importance import Watched, watching
from llava.pruning import Views
from llava.pruning.importance import received_in_segments, rotation

_IMAGE, _VIDEO = ("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")
_SECONDS = "second_per_grid_ts"


class Qwen2VLHost(Host):
    models = ("Qwen2VLForConditionalGeneration",)
    inputs = (*_IMAGE, *_VIDEO, _SECONDS, "mm_token_type_ids")
    has_axes = True

    def split(self, model: PreTrainedModel, given: dict) -> list[tuple[int, list[dict]]]:
        videos = _split_packed(given, *_VIDEO)
        seconds = given.get(_SECONDS)
        for i, video in enumerate(videos):
            if seconds is not None:
                video[_SECONDS] = torch.as_tensor(seconds[i]).view(1)
        images = _split_packed(given, *_IMAGE)
        return [(model.config.image_token_id, images), (model.config.video_token_id, videos)]

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        tower = model.model.visual
        is_video = given.get(_VIDEO[0]) is not None
        pixels, grids = (given[name] for name in (_VIDEO if is_video else _IMAGE))
        attention = tower.blocks[-1].attn
        with watching(inputs=[attention]) as watched:
            encoder = model.model.get_video_features if is_video else model.model.get_image_features
            output = encoder(pixels, grids, return_dict=True)
        importance = functools.cache(lambda: self.importance(tower, watched, grids))
        sizes = [len(tokens) for tokens in output.pooler_output]
        # transformers splits these among the pictures from 5.23 on
        layers = [
            layer.split(sizes) if isinstance(layer, torch.Tensor) else layer
            for layer in getattr(output, "deepstack_features", None) or []
        ]
        pictures, start = [], 0
        for i, (grid, tokens) in enumerate(zip(grids, output.pooler_output)):
            frames, number = int(grid[0]), int(grid.prod())
            features = tokens.view(frames, -1, tokens.shape[-1])
            first = start // tower.spatial_merge_size**2
            views = Views(
                features,
                importance=functools.partial(_part, importance, first, features.shape[:2]),
                pixels=pixels[start : start + number].view(frames, number // frames, -1),
                projected=features,
                grid=(grid[1:].cpu() // tower.spatial_merge_size).expand(frames, -1),
            )
            places = torch.arange(len(tokens), device=tokens.device).view(frames, -1)
            pictures.append(Picture(tokens, views, places, tuple(layer[i] for layer in layers)))
            start += number
        return pictures

    def importance(self, tower: torch.nn.Module, watched: Watched, grids: torch.LongTensor) -> torch.Tensor:
        """(tokens,) float32: of all frames, mean over the patches of a token, in the order of the tokens."""
        of_patches = received_in_frames(tower.blocks[-1].attn, watched, grids)
        return of_patches.unflatten(0, (-1, tower.spatial_merge_size**2)).mean(dim=1)

    def placeholders(self, model: PreTrainedModel, token: int, given: dict) -> int:
        (grid,) = next(given[name] for name in (_IMAGE[1], _VIDEO[1]) if given.get(name) is not None)
        return int(grid.prod()) // model.model.visual.spatial_merge_size**2

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        grids = [given[name] for name in (_IMAGE[1], _VIDEO[1]) if given.get(name) is not None]
        return max(int((grid[:, 1] * grid[:, 2]).max()) for grid in grids) // model.model.visual.spatial_merge_size**2

    def positions(
        self,
        model: PreTrainedModel,
        input_ids: torch.LongTensor,
        mask: torch.BoolTensor,
        pictures: dict[int, list[dict]],
    ) -> torch.LongTensor:
        kinds, given = torch.zeros_like(input_ids, dtype=torch.int), {}
        for token, own in pictures.items():
            if own:
                kind, grid = (2, _VIDEO[1]) if _VIDEO[0] in own[0] else (1, _IMAGE[1])
                kinds = kinds.masked_fill(input_ids == token, kind)
                given |= {name: torch.cat([part[name] for part in own]) for name in (grid, _SECONDS) if name in own[0]}
        positions, _ = model.model.get_rope_index(
            input_ids, mm_token_type_ids=kinds, attention_mask=mask.long(), **given
        )
        return positions


def _part(importance: Callable[[], torch.Tensor], first: int, shape: tuple[int, int]) -> torch.Tensor:
    """(K, N) of the importance of all tokens, from the `first` on."""
    return importance()[first : first + shape[0] * shape[1]].view(*shape)


@torch.no_grad()
def received_in_frames(attention: torch.nn.Module, watched: Watched, grids: torch.LongTensor) -> torch.Tensor:
    """(patches,) float32: the attention that each patch receives, mean over the queries of its frame and over heads.

    Patches attend to those of their own segment, a frame or a window of it, and so receive nothing from others. They
    come in the order of the layer.

    Args:
        attention: a layer's, whose input was `watched`.
        grids: (I, 3): time steps, height and width of each picture in patches.
    """
    given = watched.inputs[attention]
    lengths, rotate = given["cu_seqlens"].diff().tolist(), rotation(*given["position_embeddings"])
    sums = received_in_segments(attention, given["hidden_states"], lengths, rotate)
    frames = (grids[:, 1] * grids[:, 2]).repeat_interleave(grids[:, 0])
    return sums / frames.repeat_interleave(frames).to(sums.device)


def _split_packed(given: dict, pixels: str, grid: str) -> list[dict]:
    """The arguments of each picture, of pixels that are patches of one picture after the other."""
    if given.get(pixels) is None:
        return []
    parts = given[pixels].split(given[grid].prod(dim=1).tolist())
    return [{pixels: part, grid: given[grid][i : i + 1]} for i, part in enumerate(parts)]


HOST = Qwen2VLHost()
