"""DivPrune: the projected tokens that are farthest from one another.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025, arXiv
2503.02175: the max-min diversity problem, argmax over S with |S| = T of min over i != j in S of 1 - cos(x_i, x_j),
solved greedily.
"""

import torch
import torch.nn.functional as F

from llava.pruning.base import PruningSettings, Views, VisualTokens


def select(views: Views, settings: PruningSettings) -> VisualTokens:
    return views.keep(farthest(views.projected, settings.visual_token_num))


def farthest(tokens: torch.Tensor, number: int) -> torch.LongTensor:
    """`number` of the tokens (K, N, D) whose least distance, 1 - cosine, to those picked before was greatest.

    The first is the one whose nearest other token is farthest. Returns (K, number) int64, ascending.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    distance = 1 - unit @ unit.transpose(1, 2)
    others = distance.masked_fill(torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device), torch.inf)
    picked = [others.amin(dim=2).argmax(dim=1)]
    crop = torch.arange(len(tokens), device=tokens.device)
    nearest = distance[crop, picked[0]]
    for _ in range(number - 1):
        nearest[crop, picked[-1]] = -torch.inf
        picked.append(nearest.argmax(dim=1))
        nearest = torch.minimum(nearest, distance[crop, picked[-1]])
    return torch.stack(picked, dim=1).sort(dim=1).values
