"""PruneSID: patches grouped by principal components, near-duplicates struck in each group, and a quota for each.

PruneSID, ICLR 2026, arXiv 2603.09480. T tokens: [CLS] and T - 1 patches, of floor(T / 4) groups. A patch's group is
the principal direction of sigmoid(hidden states) in which it is largest. With S the cosines of the hidden states, rho
their mean over pairs and tau = T rho / 32, a group's patch with the most attention strikes those whose S to it is above
tau, then the next one that is left, and so on. Groups with more patches left have larger quotas, and fill them with
what is left first, then with what was struck, each by attention.

The authors draw the principal directions at random, without a seed; here they are exact. They feed the patches group
by group; here [CLS] comes first, where the first patch stands, and then the patches in raster order. They have no rule
for less than one group or for more groups than channels: here there is one group at least, and as many as channels at
most.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from llava.pruning.kernels.cosine import cosines, exact, rounded, unit_vectors
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import MergedTokens, keep_patches
from llava.pruning.views import Views


@dataclass(frozen=True)
class PruneSID(Method):
    tokens_a_group: int = 4
    suppression: float = 1 / 32
    merges = True  # [CLS] is no patch
    each_crop_alone = True  # it has the [CLS] of each crop

    def select(self, views: Views, settings: Settings) -> MergedTokens:
        states = views.hidden_states
        kept = self.order(states[:, 1:], views.importance, settings.visual_token_num)
        patches = kept.sort(dim=1).values.to(states.device)
        tokens = torch.cat([states[:, :1], keep_patches(states[:, 1:], patches)], dim=1)
        return MergedTokens(tokens, F.pad(patches, (1, 0)))

    def order(self, states: torch.Tensor, attention: torch.Tensor, number: int) -> torch.LongTensor:
        """(K, number - 1) int64 on the CPU: the kept patches, group by group.

        Args:
            states: (K, N, C), the hidden states of the patches.
            attention: (K, N) of [CLS], mean or sum over heads.
            number: T.
        """
        if number == 1:
            return torch.empty(len(states), 0, dtype=torch.int64)
        groups = min(max(1, number // self.tokens_a_group), states.shape[2])
        group_of = principal_groups(states, groups).cpu().numpy()
        unit = unit_vectors(states)
        similarity = rounded(cosines(unit, unit)).cpu().numpy()
        attention = exact(attention).cpu().numpy()
        crops = zip(group_of, similarity, attention, strict=True)
        return torch.from_numpy(np.stack([self._order_of_crop(*crop, groups, number) for crop in crops]))

    def _order_of_crop(self, group_of, similarity, attention, groups: int, number: int) -> np.ndarray:
        above = similarity[np.triu_indices(len(attention), 1)]
        threshold = number * self.suppression * (above.mean() if len(above) else 0)
        most_attended = np.argsort(-attention, kind="stable")
        members, distinct = [], []
        for group in range(groups):
            own = most_attended[group_of[most_attended] == group]
            taken = without_duplicates(own, similarity, threshold)
            members.append(np.concatenate([taken, own[~np.isin(own, taken)]]))
            distinct.append(len(taken))
        quota = quotas(np.array([len(own) for own in members]), np.array(distinct), number)
        return np.concatenate([own[:part] for own, part in zip(members, quota)])


METHOD = PruneSID()


def principal_groups(states: torch.Tensor, groups: int) -> torch.LongTensor:
    """(K, N): which of the first `groups` principal directions of (K, N, C) states each patch is largest in."""
    squashed = exact(states).sigmoid()
    centred = squashed - squashed.mean(dim=2, keepdim=True)
    directions = torch.linalg.eigh(centred @ centred.transpose(1, 2)).eigenvectors  # (K, N, N), the last ones largest
    return directions[:, :, -groups:].flip(dims=[2]).abs().argmax(dim=2)


def without_duplicates(patches: np.ndarray, similarity: np.ndarray, threshold: float) -> np.ndarray:
    """Of `patches`, most attended first, those that no earlier one of them is more similar to than `threshold`."""
    taken = []
    while len(patches):
        taken.append(patches[0])
        patches = patches[1:][similarity[patches[0], patches[1:]] <= threshold]
    return np.array(taken, dtype=np.int64)


def quotas(sizes: np.ndarray, distinct: np.ndarray, number: int) -> np.ndarray:
    """(G,): how many patches each group keeps, `number` - 1 in all.

    Args:
        sizes: (G,) the patches of each group.
        distinct: (G,) those of them that were not struck.
        number: T, at least 2 and at most the sum of the sizes.
    """
    least = np.minimum(1, sizes)
    most = np.minimum(np.minimum(5 * -(-number // 64), sizes), distinct)
    while most.sum() < number:
        most = np.minimum(most + 1, sizes)
    extra = max(0, number - 1 - least.sum())
    share = distinct.astype(np.float32) / np.float32(distinct.sum())
    ends = np.round(np.cumsum(share, dtype=np.float32) * np.float32(extra)).astype(np.int64)
    quota = np.minimum(least + np.diff(ends, prepend=0), most)
    missing = extra + least.sum() - quota.sum()
    for group in np.argsort(-distinct, kind="stable"):
        more = min(missing, most[group] - quota[group])
        quota[group] += more
        missing -= more
    return quota
