"""Random patches, the baseline that every method has to beat: T of N without replacement.

The draw of a crop depends on the seed and on the crop's pixels alone, so that an image gets the same patches whatever
else is in its batch, on any number of processes, and after a run that was cut off.
"""

import zlib

import torch

from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens
from llava.pruning.views import Views


class Random(Method):
    draws_at_random = True

    def select(self, views: Views, settings: Settings) -> VisualTokens:
        kept = []
        for pixels in views.pixels.float().cpu():
            generator = torch.Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes(), settings.pruning_seed))
            order = torch.randperm(views.features.shape[1], generator=generator)
            kept.append(order[: settings.visual_token_num])
        return views.keep(torch.stack(kept).to(views.features.device))


METHOD = Random()
