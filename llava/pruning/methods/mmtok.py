"""MMTok: patches that cover the question's words and the other patches.

Dong et al., "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs", ICLR 2026, arXiv 2508.18264.
With w the m word embeddings of the question, f the projected and E the tower's features,
C = [softmax(cos(w, f) / 0.02) / m; 0.5 softmax(cos(E, E) / 0.2) / N], rows being what is to be covered. T times the
patch i with the greatest sum over rows r of max(0, C_ri - b_r), where b_r is the greatest C_rk of the patches k picked
so far, 0 at first.
"""

from dataclasses import dataclass

import torch

from llava.pruning.kernels.cosine import cosines, exact, unit_vectors
from llava.pruning.kernels.greedy import most_covering
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens
from llava.pruning.views import Views


@dataclass(frozen=True)
class MMTok(Method):
    word_temperature: float = 0.02
    patch_temperature: float = 0.2
    patch_share: float = 0.5
    needs = ("word_embeds",)

    def select(self, views: Views, settings: Settings) -> VisualTokens:
        covered = self.coverage(views.word_embeds, views.projected, views.features)
        return views.keep(most_covering(covered, settings.visual_token_num))

    def coverage(self, words: torch.Tensor, projected: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(K, m + N, N) float64: how well each patch covers each word and each patch.

        Args:
            words: (m, D); without any, patches cover patches alone.
            projected: (K, N, D).
            features: (K, N, C).
        """
        unit, projected = unit_vectors(features), exact(projected)
        lengths = projected.norm(dim=2).clamp_(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
        of_words = cosines(unit_vectors(words).to(unit.device), projected).div_(lengths * self.word_temperature)
        of_patches = cosines(unit, unit).div_(self.patch_temperature)
        crops, patches, _ = unit.shape
        covered = unit.new_empty(crops, len(words) + patches, patches)
        torch.mul(of_words.softmax(dim=2), 1 / max(1, len(words)), out=covered[:, : len(words)])
        torch.mul(of_patches.softmax(dim=2), self.patch_share / patches, out=covered[:, len(words) :])
        return covered


METHOD = MMTok()
