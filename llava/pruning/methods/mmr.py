"""Maximal marginal relevance: patches that are attended and unlike those picked before.

The rule is that of IDPruner in AngelSlim, where importance is the output of a trained scorer. Here it is the attention
of [CLS], so no figure published for IDPruner is of this form. With
I = (a - min a) / (max a - min a + 1e-6) and S the cosines of the projected features, the patch with the highest I comes
first, and then each time the patch i with the greatest lambda I_i - (1 - lambda) max over picked j of S_ij, lambda 0.5.
"""

from dataclasses import dataclass

import torch

from llava.pruning.kernels import greedy
from llava.pruning.kernels.cosine import cosines, exact, rounded, unit_vectors
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens
from llava.pruning.views import Views


@dataclass(frozen=True)
class MMR(Method):
    relevance_share: float = 0.5

    def select(self, views: Views, settings: Settings) -> VisualTokens:
        return views.keep(self.picks(views.projected, views.importance, settings.visual_token_num))

    def picks(self, tokens: torch.Tensor, attention: torch.Tensor, number: int) -> torch.LongTensor:
        """(K, number) int64, in the order of the picks, of projected features (K, N, D) and attention (K, N)."""
        unit, attention = unit_vectors(tokens), exact(attention)
        least, most = attention.aminmax(dim=1, keepdim=True)
        relevance = ((attention - least) / (most - least + 1e-6)).to(unit.device)
        # What is far from all that were picked: a patch's distance is its own relevance less its likeness.
        unlike = rounded(cosines(unit, unit)).mul_(self.relevance_share - 1)
        return greedy.farthest(unlike.add_(self.relevance_share * relevance.unsqueeze(1)), number, relevance)


METHOD = MMR()
