"""Idefics3 and SmolVLM: crops of a picture, a SigLIP-like tower, several patches shuffled into one token."""

import torch
from transformers import PreTrainedModel

from llava.errors import InputError
from llava.integrations.transformers.hosts.base import Host, Picture, join_crops, runs_of
from llava.integrations.transformers.hosts.crops import whole_crops
from llava.integrations.transformers.importance import watching
from llava.pruning import Views
from llava.pruning.importance import received_attention
from llava.pruning.views import square_grids


class Idefics3Host(Host):
    models = ("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration")
    inputs = ("pixel_values", "pixel_attention_mask")
    splits_crops = True

    def split(self, model: PreTrainedModel, given: dict) -> list[tuple[int, list[dict]]]:
        pixels, mask = given.get("pixel_values"), given.get("pixel_attention_mask")
        if pixels is None:
            return [(model.config.image_token_id, [])]
        real = (pixels != 0).flatten(2).any(dim=2)  # prompts with fewer crops than others have crops of zeros
        parts = []
        for prompt, crop in real.nonzero().tolist():
            part = {"pixel_values": pixels[prompt, crop][None, None]}
            if mask is not None:
                part["pixel_attention_mask"] = mask[prompt, crop][None, None]
            parts.append(part)
        return [(model.config.image_token_id, parts)]

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, mask = given["pixel_values"], given.get("pixel_attention_mask")
        attention = model.model.vision_model.encoder.layers[-1].self_attn
        with watching(inputs=[attention]) as watched:
            output = model.model.get_image_features(pixels, mask).pooler_output
        tokens = output if isinstance(output, torch.Tensor) else torch.stack(list(output))

        def importance() -> torch.Tensor:
            """(K, n): mean over the patches of a token that are no padding."""
            is_patch = None if mask is None else _patches(mask.flatten(0, 1), model.config.vision_config.patch_size)
            of_patches = received_attention(attention, watched.hidden_states(attention), is_patch)
            is_patch = torch.ones_like(of_patches) if is_patch is None else is_patch.to(of_patches)
            shuffle, factor = model.model.connector.pixel_shuffle, model.config.scale_factor
            sums = shuffle(of_patches.unsqueeze(-1), factor).sum(dim=-1)
            return sums / shuffle(is_patch.unsqueeze(-1), factor).sum(dim=-1).clamp(min=1)

        views = Views(
            tokens,
            importance=importance,
            pixels=pixels.flatten(0, 1),
            projected=tokens,
            grid=square_grids(*tokens.shape[:2]),
        )
        return [whole_crops(tokens[i], views.crops(slice(i, i + 1))) for i in range(len(tokens))]

    def whole_pictures(
        self, model: PreTrainedModel, parts: list[Picture], ids: torch.LongTensor, is_own: torch.BoolTensor
    ) -> list[Picture]:
        """The whole picture comes after its crops, and a word of its own before it: <fake><global-img><image>...<fake>.

        Raises InputError where prompts are not written so.
        """
        runs, numbers, number = runs_of(is_own), [], 0
        ids = torch.nn.functional.pad(ids, (2, 1), value=-1)  # no id: there is nothing
        last = {row: (ids[row, start + 1], ids[row, end + 2]) for row, start, end in runs}  # of each prompt
        for row, start, end in runs:
            word, around = last[row]
            if ids[row, start] != around:
                raise InputError("budget_per: the prompt does not tell which crops are of one picture")
            number += end - start
            if ids[row, start + 1] == word:
                numbers, number = [*numbers, number], 0
        return join_crops(parts, numbers)

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        patch = model.config.vision_config.patch_size
        height, width = (length // patch for length in given["pixel_values"].shape[-2:])
        return height * width // model.config.scale_factor**2


def _patches(mask: torch.Tensor, size: int) -> torch.BoolTensor:
    """(K, N): which patches have a pixel that is no padding, from (K, height, width)."""
    return mask.unfold(1, size, size).unfold(2, size, size).flatten(3).any(dim=3).flatten(1)


HOST = Idefics3Host()
