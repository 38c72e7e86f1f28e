"""FasterVLM: the patches with the highest [CLS] attention.

Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster",
arXiv 2412.01818v1. With a_h = softmax(q_h [CLS] K_h^T / sqrt(d)) of head h, the T patches with the highest mean over h
of a_h.
"""

from llava.pruning.base import PruningSettings, Views, VisualTokens, highest


def select(views: Views, settings: PruningSettings) -> VisualTokens:
    return views.keep(highest(views.importance, settings.visual_token_num))
