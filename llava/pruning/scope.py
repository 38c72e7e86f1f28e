"""SCOPE: patches that are salient and cover what those before them leave uncovered.

Deng et al., "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs", NeurIPS 2025. With S the
cosine similarity of the tower's features and a the attention of [CLS], T times the patch i with the greatest
a_i * sum over j of max(0, S_ji - m_j), where m_j is the greatest S_jk of the patches k picked so far, 0 at first.
"""

from llava.pruning.base import PruningSettings, Views, VisualTokens
from llava.pruning.cosine import cosines, exact, unit_vectors
from llava.pruning.greedy import most_covering


def select(views: Views, settings: PruningSettings) -> VisualTokens:
    unit = unit_vectors(views.features)
    return views.keep(most_covering(cosines(unit, unit), settings.visual_token_num, exact(views.importance)))
