"""HiPrune: patches that the middle of the tower attends to, their neighbours, and those that its end attends to.

HiPrune, arXiv 2508.00553. With o and d the attention that a patch receives in the object layer, which is the 9th of
CLIP's 24, and in the layer that LLaVA reads, mean over heads and over all queries: the round(T alpha / 5) patches with
the highest o are anchors. They and their neighbours, left, right, above and below, are kept, and of the others those
with the highest d. At alpha = 0.1 there are anchors from T = 26 on.
"""

from dataclasses import dataclass

import torch

from llava.pruning.errors import PruningError
from llava.pruning.kernels.cosine import exact
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens, highest
from llava.pruning.views import Views


@dataclass(frozen=True)
class HiPrune(Method):
    alpha: float = 0.1
    each_crop_alone = True  # neighbours are those in a crop

    def select(self, views: Views, settings: Settings) -> VisualTokens:
        widths = views.grid[:, 1].tolist()
        crops = zip(exact(views.object_received), exact(views.received), widths, strict=True)
        return views.keep(torch.stack([self.kept(*crop, settings.visual_token_num) for crop in crops]))

    def kept(self, object_received: torch.Tensor, received: torch.Tensor, width: int, number: int) -> torch.LongTensor:
        """(number,) int64, ascending, of the attention that N patches receive (N,) in two layers, `width` a row.

        A row goes on in the next one: left of a row's first patch is the last one of the row above.

        Raises PruningError if the anchors and their neighbours are more than `number`.
        """
        anchors = highest(object_received.unsqueeze(0), round(number * self.alpha / 5))[0]
        steps = torch.tensor([0, -1, 1, -width, width], device=anchors.device)
        near = (anchors.unsqueeze(1) + steps).clamp(0, len(received) - 1)
        is_near = torch.zeros(len(received), dtype=torch.bool, device=anchors.device)
        is_near[near.flatten()] = True
        missing = number - int(is_near.sum())
        if missing < 0:
            raise PruningError(f"hiprune: alpha {self.alpha} asks for {number - missing} of {number} visual tokens")
        is_near[highest(received.masked_fill(is_near, -torch.inf).unsqueeze(0), missing)[0]] = True
        return is_near.nonzero()[:, 0]


METHOD = HiPrune()
