"""Gemma 4: pictures and videos of any shape, 3 x 3 patches averaged into a token, and words' embeddings for each layer.

Patches may come in any order, with padding: each has its position. Frames of a video are crops.
"""

import functools

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture, split_first
from llava.integrations.transformers.hosts.vit import attention_of, stack_of
from llava.integrations.transformers.importance import Watched, watching
from llava.pruning import Views
from llava.pruning.importance import received_attention, rotation

_IMAGE, _VIDEO = ("pixel_values", "image_position_ids"), ("pixel_values_videos", "video_position_ids")
_FRAMES = "num_frames_per_video"


class Gemma4Host(Host):
    models = ("Gemma4ForConditionalGeneration",)
    inputs = (*_IMAGE, *_VIDEO, _FRAMES)
    aligned = ("mm_token_type_ids",)  # which say what attends to one another

    def split(self, model: PreTrainedModel, given: dict) -> list[tuple[int, list[dict]]]:
        images = split_first({name: given[name] for name in _IMAGE if name in given}, _IMAGE)
        videos = []
        if given.get(_FRAMES) is not None:
            numbers = given[_FRAMES].tolist()
            parts = zip(*(given[name].split(numbers) for name in _VIDEO), given[_FRAMES].split(1))
            videos = [dict(zip((*_VIDEO, _FRAMES), part)) for part in parts]
        elif given.get(_VIDEO[0]) is not None:  # up to transformers 5.22, (videos, frames, ...)
            videos = split_first({name: given[name] for name in _VIDEO}, _VIDEO)
        return [(model.config.image_token_id, images), (model.config.video_token_id, videos)]

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        is_video = given.get(_VIDEO[0]) is not None
        pixels, positions = (given[name] for name in (_VIDEO if is_video else _IMAGE))
        attention, merged = attention_of(stack_of(model.model.vision_tower)[-1]), self.merged(model)
        encoder = model.model.get_video_features if is_video else model.model.get_image_features
        with watching(inputs=[attention]) as watched:
            output = encoder(pixels, positions, **{name: given[name] for name in (_FRAMES,) if name in given})
        numbers = _frames(given) if is_video else [1] * len(pixels)
        pixels, positions = (values.flatten(0, -3) for values in (pixels, positions))
        importance = functools.cache(lambda: _importance(attention, watched, positions, merged))
        pictures, start = [], 0
        for tokens, frames in zip(output.pooler_output, numbers):
            part = slice(start, start + frames)
            features = tokens.view(frames, -1, tokens.shape[-1])
            width, height = (positions[start].amax(dim=0) + 1).tolist()
            views = Views(
                features,
                importance=functools.partial(_part, importance, part, features.shape[1]),
                pixels=pixels[part],
                projected=features,
                grid=torch.tensor([[height // merged, width // merged]] * frames),
            )
            places = torch.arange(len(tokens), device=tokens.device).view(frames, -1)
            pictures.append(Picture(tokens, views, places))
            start += frames
        return pictures

    def merged(self, model: PreTrainedModel) -> int:
        """A token is a square of so many patches in height and width."""
        return model.config.vision_config.pooling_kernel_size

    def placeholders(self, model: PreTrainedModel, token: int, given: dict) -> int:
        frames = sum(_frames(given)) if given.get(_VIDEO[0]) is not None else 1
        return frames * self.largest_crop(model, given)

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        positions = [given[name] for name in (_IMAGE[1], _VIDEO[1]) if given.get(name) is not None]
        numbers = [int((own != -1).all(dim=-1).sum(dim=-1).max()) for own in positions]
        return max(numbers) // self.merged(model) ** 2

    def more_inputs(
        self, model: PreTrainedModel, ids: torch.LongTensor, is_visual: torch.BoolTensor, embeds: torch.Tensor
    ) -> dict:
        config = model.config
        if not config.get_text_config().hidden_size_per_layer_input:
            return {}
        others = [config.image_token_id, config.video_token_id, config.audio_token_id]
        is_text = ~(is_visual | torch.isin(ids, torch.tensor(others, device=ids.device)))
        words = ids.where(is_text, torch.tensor(config.get_text_config().pad_token_id, device=ids.device))
        return {"per_layer_inputs": model.model.language_model.get_per_layer_inputs(words, None)}


def _frames(given: dict) -> list[int]:
    """Of each video."""
    numbers, (videos, frames) = given.get(_FRAMES), given[_VIDEO[0]].shape[:2]
    return [frames] * videos if numbers is None else numbers.tolist()


def _importance(attention: torch.nn.Module, watched: Watched, positions: torch.LongTensor, merged: int) -> torch.Tensor:
    """(K, n) float32: what patches receive, mean over those of a token, 0 for padding after the last one.

    Args:
        positions: (K, N, 2), x and y of patches, -1 for padding.
    """
    is_patch = (positions != -1).all(dim=-1)
    rotate = rotation(*watched.inputs[attention]["position_embeddings"], axes=2)
    of_patches = received_attention(attention, watched.hidden_states(attention), is_patch, rotate)
    x, y = (positions.clamp(min=0) // merged).unbind(dim=-1)
    across = (positions[..., 0].amax(dim=1, keepdim=True) + 1) // merged
    tokens = torch.zeros(len(positions), positions.shape[1] // merged**2, device=of_patches.device)
    return tokens.scatter_add_(1, x + across * y, of_patches / merged**2)


def _part(importance, crops: slice, tokens: int) -> torch.Tensor:
    """(frames, n) of a picture's importance, from that of all crops."""
    return importance()[crops, :tokens]


HOST = Gemma4Host()
