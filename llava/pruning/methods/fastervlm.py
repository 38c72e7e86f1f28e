"""FasterVLM: the patches with the highest [CLS] attention.

Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster",
arXiv 2412.01818v1. With a_h = softmax(q_h [CLS] K_h^T / sqrt(d)) of head h, the T patches with the highest mean over h
of a_h.
"""

from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens, highest
from llava.pruning.views import Views


class FasterVLM(Method):
    def select(self, views: Views, settings: Settings) -> VisualTokens:
        return views.keep(highest(views.importance, settings.visual_token_num))


METHOD = FasterVLM()
