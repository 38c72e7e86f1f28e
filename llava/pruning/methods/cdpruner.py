"""CDPruner: patches that are relevant to the question and unlike one another.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs", NeurIPS
2025, arXiv 2506.10967. The greedy solution of a determinantal point process with the kernel diag(r) L diag(r): L is
the cosine similarity of the projected features; r_i is minus the mean cosine of CLIP's embeddings of patch i and of
the question, brought to the range from 0 to 1: (r - min r + 1e-6) / (max r - min r), in each crop.
"""

import torch

from llava.pruning.kernels.cosine import cosines, rounded, unit_vectors
from llava.pruning.kernels.greedy import most_voluminous
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens
from llava.pruning.views import Views


class CDPruner(Method):
    needs = ("text_embeds",)

    def select(self, views: Views, settings: Settings) -> VisualTokens:
        unit = unit_vectors(views.projected)
        relevant = relevance(views.image_embeds, views.text_embeds).to(unit.device)
        kernel = relevant.unsqueeze(2) * rounded(cosines(unit, unit)) * relevant.unsqueeze(1)
        return views.keep(most_voluminous(kernel, settings.visual_token_num))


METHOD = CDPruner()


def relevance(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """(K, N) float64, from almost 0 to 1: how relevant each patch is; 1 for all where none is more so.

    Args:
        image_embeds: (K, N, E).
        text_embeds: (M, E), of the pieces of the question.
    """
    image = unit_vectors(image_embeds)
    text = unit_vectors(text_embeds).to(image.device).mean(dim=0)
    relevant = -(image * text).sum(dim=2)  # no matrix product: equal patches must be equally relevant
    least, most = relevant.amin(dim=1, keepdim=True), relevant.amax(dim=1, keepdim=True)
    return torch.where(most > least, (relevant - least + 1e-6) / (most - least), 1.0)
