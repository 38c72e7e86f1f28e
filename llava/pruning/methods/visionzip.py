"""VisionZip: the tokens with the most attention, and what is left merged by the similarity of its keys.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025, arXiv 2412.04467.
Dominant tokens: [CLS] and the patches with the highest sum over heads of softmax(q_h [CLS] K_h^T / sqrt(d)).
Contextual tokens: of the rest every s-th one, x_t, plus the mean of those x_j whose keys are most similar to its own.
A contextual token stands at the patch t that it is made around; [CLS], which comes first, at the first patch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import MergedTokens, highest, keep_patches
from llava.pruning.views import Views


@dataclass(frozen=True)
class VisionZip(Method):
    """`contextual_share` of the tokens is contextual."""

    contextual_share: float = 10 / 64
    merges = True
    each_crop_alone = True  # it reads hidden states and keys, with the [CLS] of each crop

    def select(self, views: Views, settings: Settings) -> MergedTokens:
        tower = views.hidden_states, views.importance, views.keys
        return zip_patches(*tower, settings.visual_token_num, self.contextual_share)


METHOD = VisionZip()


def zip_tokens(*args, **kwargs) -> torch.Tensor:
    """The tokens (K, T, C) of `zip_patches`."""
    return zip_patches(*args, **kwargs).tokens


def zip_patches(
    hidden_states: torch.Tensor,
    cls_attention: torch.Tensor,
    keys: torch.Tensor,
    number: int,
    contextual_share: float = 10 / 64,
) -> MergedTokens:
    """Dominant tokens, [CLS] first, then contextual ones: 54 + 10 of 64.

    Args:
        hidden_states: (K, 1 + N, C) of the selected layer, [CLS] first.
        cls_attention: (K, N), summed over heads, or their mean, which orders the patches alike.
        keys: (K, 1 + N, head width) of that layer, averaged over heads.
        number: T, the tokens of each crop.
        contextual_share: the share of them that is contextual, rounded.
    """
    crops, patches = cls_attention.shape
    contextual_num = round(contextual_share * number)
    dominant_num = number - contextual_num - 1  # besides [CLS]
    dominant = highest(cls_attention, dominant_num)
    features = hidden_states[:, 1:]
    first = torch.cat([hidden_states[:, :1], keep_patches(features, dominant)], dim=1)
    places = F.pad(dominant, (1, 0))  # [CLS] at the first patch
    if contextual_num == 0:
        return MergedTokens(first, places)

    is_dominant = torch.zeros(crops, patches, dtype=torch.bool, device=dominant.device).scatter(1, dominant, True)
    rest = _places_of_zeros(is_dominant, patches - dominant_num)
    metric = F.normalize(keep_patches(keys[:, 1:], rest).float(), dim=-1)
    states = keep_patches(features, rest)
    step = max(1, rest.shape[1] // contextual_num)
    target = torch.arange(0, rest.shape[1], step, device=rest.device)[:contextual_num]
    is_target = torch.zeros(rest.shape[1], dtype=torch.bool, device=rest.device).index_fill(0, target, True)
    joining = _places_of_zeros(is_target, rest.shape[1] - len(target))
    closest = (metric[:, joining] @ metric[:, target].transpose(1, 2)).argmax(dim=2)
    joins = (closest.unsqueeze(2) == torch.arange(len(target), device=rest.device)).to(states.dtype)
    mean = (joins.transpose(1, 2) @ states[:, joining]) / joins.sum(dim=1).clamp(min=1).unsqueeze(-1)
    return MergedTokens(
        torch.cat([first, states[:, target] + mean], dim=1), torch.cat([places, rest[:, target]], dim=1)
    )


def _places_of_zeros(mask: torch.BoolTensor, number: int) -> torch.LongTensor:
    """Where a mask (..., N) is false, ascending: (..., number). `nonzero` would wait for the GPU."""
    return mask.int().argsort(dim=-1, stable=True)[..., :number]
