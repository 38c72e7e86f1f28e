"""DivPrune: the projected tokens that are farthest from one another.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025, arXiv
2503.02175: the max-min diversity problem, argmax over S with |S| = T of min over i != j in S of 1 - cos(x_i, x_j),
solved greedily.
"""

import torch

from llava.pruning.kernels import greedy
from llava.pruning.kernels.cosine import cosines, rounded, unit_vectors
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens
from llava.pruning.views import Views


class DivPrune(Method):
    def select(self, views: Views, settings: Settings) -> VisualTokens:
        return views.keep(farthest(views.projected, settings.visual_token_num))


METHOD = DivPrune()


def farthest(tokens: torch.Tensor, number: int) -> torch.LongTensor:
    """`number` of the tokens (K, N, D) whose least distance, 1 - cosine, to those picked before was greatest.

    The first is the one whose nearest other token is farthest. Returns (K, number) int64, ascending.
    """
    unit = unit_vectors(tokens)
    return greedy.farthest(rounded(cosines(unit, unit)).neg_().add_(1), number).sort(dim=1).values
