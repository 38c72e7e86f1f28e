"""HoloV: each stretch of the picture keeps its share of patches, the more so the more it stands out.

Zou et al., "Don't Just Chase 'Highlighted Tokens' in MLLMs: Revisiting Visual Holistic Context Retention", NeurIPS
2025. The raster sequence is cut into 16 runs. In a run of n patches, with S the cosine similarity of the projected
features with zeros on its diagonal, v_i = sum over j of (S_ij - mean_i)^2 / (n - 1), where mean_i = sum over j of
S_ij / (n - 1), and a' is 1000 times the attention of [CLS]. The run weighs mean(a' + 0.09 v mean|a'| / (mean|v| +
1e-6)); its quota is its share of T by weight, and so many of its patches with the highest attention are kept.
"""

from dataclasses import dataclass

import torch

from llava.pruning.kernels.cosine import cosines, exact, rounded, unit_vectors
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens
from llava.pruning.views import Views


@dataclass(frozen=True)
class HoloV(Method):
    runs: int = 16
    attention_scale: float = 1000
    variance_share: float = 0.09

    def select(self, views: Views, settings: Settings) -> VisualTokens:
        attention, unit = exact(views.importance), unit_vectors(views.projected)
        attention = attention.to(unit.device)
        lengths = self.run_lengths(attention.shape[1])
        runs = zip(attention.split(lengths, 1), unit.split(lengths, 1))
        weights = torch.stack([self._weight(own, vectors) for own, vectors in runs], dim=1)
        quota = quotas(weights, torch.tensor(lengths, device=weights.device), settings.visual_token_num)
        chosen = [
            own.argsort(dim=1, descending=True, stable=True).argsort(dim=1) < quota[:, run : run + 1]
            for run, own in enumerate(attention.split(lengths, dim=1))
        ]
        patches = torch.cat(chosen, dim=1).nonzero()[:, 1].view(len(attention), -1)
        return views.keep(patches.to(views.features.device))

    def run_lengths(self, patches: int) -> list[int]:
        """How long each run is: the first ones may be one longer than the others."""
        return [patches // self.runs + (run < patches % self.runs) for run in range(self.runs)]

    def _weight(self, attention: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        """(K,): what one run weighs, of its attention (K, n) and unit vectors (K, n, D); 0 for a run of no patch."""
        length = attention.shape[1]
        if length == 0:
            return attention.new_zeros(len(attention))
        similarity = rounded(cosines(unit, unit))
        similarity.diagonal(dim1=1, dim2=2).zero_()
        others = max(1, length - 1)  # a patch alone has no variance
        mean = similarity.sum(dim=2, keepdim=True) / others
        variance = (similarity - mean).square().sum(dim=2) / others
        scaled = self.attention_scale * attention
        of_run = {"dim": 1, "keepdim": True}
        variance = variance * scaled.abs().mean(**of_run) / (variance.abs().mean(**of_run) + 1e-6)
        return (scaled + self.variance_share * variance).mean(dim=1)


METHOD = HoloV()


def quotas(weights: torch.Tensor, lengths: torch.LongTensor, number: int) -> torch.LongTensor:
    """(K, R): how many patches each of R runs keeps, `number` in all.

    The share of T, rounded down, and one more for the heaviest runs until T are given out. What a run has no patches
    for goes to the next heaviest ones.

    Args:
        weights: (K, R) float64, not negative.
        lengths: (R,): the patches of each run.
        number: T, at most the sum of the lengths.
    """
    total = weights.sum(dim=1, keepdim=True)
    share = torch.where(total > 0, weights / total, 1 / weights.shape[1])
    heaviest_first = share.argsort(dim=1, descending=True, stable=True)
    quota = (number * share).floor().long()
    is_given_more = heaviest_first.argsort(dim=1) < number - quota.sum(dim=1, keepdim=True)
    quota = (quota + is_given_more).gather(1, heaviest_first)
    # Of the heaviest runs up to one, all patches are kept, or what the quotas ask for after the last full run.
    wanted, room = quota.cumsum(dim=1), lengths[heaviest_first].cumsum(dim=1)
    total = room + (wanted - room).clamp(max=0).cummin(dim=1).values
    kept = total.diff(dim=1, prepend=torch.zeros_like(total[:, :1]))
    return torch.zeros_like(kept).scatter(1, heaviest_first, kept)
