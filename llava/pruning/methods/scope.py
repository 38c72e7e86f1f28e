"""SCOPE: patches that are salient and cover what those before them leave uncovered.

Deng et al., "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs", NeurIPS 2025. With S the
cosine similarity of the tower's features and a the attention of [CLS], T times the patch i with the greatest
a_i * sum over j of max(0, S_ji - m_j), where m_j is the greatest S_jk of the patches k picked so far, 0 at first.
"""

from llava.pruning.kernels.cosine import cosines, exact, unit_vectors
from llava.pruning.kernels.greedy import most_covering
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens
from llava.pruning.views import Views


class Scope(Method):
    def select(self, views: Views, settings: Settings) -> VisualTokens:
        unit = unit_vectors(views.features)
        return views.keep(most_covering(cosines(unit, unit), settings.visual_token_num, exact(views.importance)))


METHOD = Scope()
