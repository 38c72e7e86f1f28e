"""Random patches, the baseline that every method has to beat: T of N without replacement.

The draw of a crop depends on the seed and on the crop's pixels alone, so that an image gets the same patches whatever
else is in its batch, on any number of processes, and after a run that was cut off.
"""

import zlib

import torch

from llava.model.multimodal_encoder.clip_encoder import EncodedCrops
from llava.model.pruning import Budget, Project
from llava.model.visual_token_pruning import keep_patches


def visual_tokens(seen: EncodedCrops, project: Project, budget: Budget) -> tuple[torch.Tensor, torch.LongTensor]:
    patches = seen.features.shape[1]
    kept = []
    for pixels in seen.pixels.float().cpu():
        generator = torch.Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes(), budget.seed))
        kept.append(torch.randperm(patches, generator=generator)[: budget.visual_token_num].sort().values)
    kept = torch.stack(kept).to(seen.features.device)
    return project(keep_patches(seen.features, kept)), kept
