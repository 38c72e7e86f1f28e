"""MMTok: patches that cover the question's words and the other patches.

Dong et al., "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs", ICLR 2026, arXiv 2508.18264.
With w the m word embeddings of the question, f the projected and E the tower's features,
C = [softmax(cos(w, f) / 0.02) / m; 0.5 softmax(cos(E, E) / 0.2) / N], rows being what is to be covered. T times the
patch i with the greatest sum over rows r of max(0, C_ri - b_r), where b_r is the greatest C_rk of the patches k picked
so far, 0 at first.
"""

import torch

from llava.pruning.base import PruningSettings, Views, VisualTokens
from llava.pruning.cosine import cosines, exact, unit_vectors
from llava.pruning.greedy import most_covering

NEEDS = ("word_embeds",)
WORD_TEMPERATURE, PATCH_TEMPERATURE = 0.02, 0.2
PATCH_SHARE = 0.5


def select(views: Views, settings: PruningSettings) -> VisualTokens:
    covered = coverage(views.word_embeds, views.projected, views.features)
    return views.keep(most_covering(covered, settings.visual_token_num))


def coverage(words: torch.Tensor, projected: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """(K, m + N, N) float64: how well each patch covers each word and each patch.

    Args:
        words: (m, D); without any, patches cover patches alone.
        projected: (K, N, D).
        features: (K, N, C).
    """
    unit, projected = unit_vectors(features), exact(projected)
    lengths = projected.norm(dim=2).clamp_(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
    of_words = cosines(unit_vectors(words).to(unit.device), projected).div_(lengths * WORD_TEMPERATURE)
    of_patches = cosines(unit, unit).div_(PATCH_TEMPERATURE)
    crops, patches, _ = unit.shape
    covered = unit.new_empty(crops, len(words) + patches, patches)
    torch.mul(of_words.softmax(dim=2), 1 / max(1, len(words)), out=covered[:, : len(words)])
    torch.mul(of_patches.softmax(dim=2), PATCH_SHARE / patches, out=covered[:, len(words) :])
    return covered
