"""VisionZip: the tokens with the most attention, and what is left merged by the similarity of its keys.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025, arXiv 2412.04467.
Dominant tokens: [CLS] and the patches with the highest sum over heads of softmax(q_h [CLS] K_h^T / sqrt(d)).
Contextual tokens: of the rest every s-th one, x_t, plus the mean of those x_j whose keys are most similar to its own.
"""

import torch
import torch.nn.functional as F

from llava.pruning.base import MergedTokens, PruningSettings, Views, highest, keep_patches

EACH_CROP_ALONE = True  # it reads hidden states and keys, with the [CLS] of each crop


def select(views: Views, settings: PruningSettings) -> MergedTokens:
    merged = zip_tokens(views.hidden_states, views.importance, views.keys, settings.visual_token_num)
    return MergedTokens(merged)


def zip_tokens(
    hidden_states: torch.Tensor, cls_attention: torch.Tensor, keys: torch.Tensor, number: int
) -> torch.Tensor:
    """Dominant tokens, [CLS] first, then contextual ones: 54 + 10 of 64.

    Args:
        hidden_states: (K, 1 + N, C) of the selected layer, [CLS] first.
        cls_attention: (K, N), summed over heads, or their mean, which orders the patches alike.
        keys: (K, 1 + N, head width) of that layer, averaged over heads.
        number: T, the tokens of each crop.

    Returns:
        (K, T, C).
    """
    crops, patches = cls_attention.shape
    contextual_num = round(10 * number / 64)
    dominant_num = number - contextual_num - 1  # besides [CLS]
    dominant = highest(cls_attention, dominant_num)
    features = hidden_states[:, 1:]
    first = torch.cat([hidden_states[:, :1], keep_patches(features, dominant)], dim=1)
    if contextual_num == 0:
        return first

    is_rest = torch.ones(crops, patches, dtype=torch.bool, device=dominant.device).scatter(1, dominant, False)
    rest = is_rest.nonzero()[:, 1].view(crops, -1)
    metric = F.normalize(keep_patches(keys[:, 1:], rest).float(), dim=-1)
    states = keep_patches(features, rest)
    step = max(1, rest.shape[1] // contextual_num)
    target = torch.arange(0, rest.shape[1], step, device=rest.device)[:contextual_num]
    joining = torch.ones(rest.shape[1], dtype=torch.bool, device=rest.device).index_fill(0, target, False)
    closest = (metric[:, joining] @ metric[:, target].transpose(1, 2)).argmax(dim=2)
    joins = F.one_hot(closest, len(target)).to(states.dtype)
    mean = (joins.transpose(1, 2) @ states[:, joining]) / joins.sum(dim=1).clamp(min=1).unsqueeze(-1)
    return torch.cat([first, states[:, target] + mean], dim=1)
