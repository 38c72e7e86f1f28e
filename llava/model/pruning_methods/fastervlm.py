"""FasterVLM: the patches with the highest [CLS] attention.

Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster",
arXiv 2412.01818v1. With a_h = softmax(q_h [CLS] K_h^T / sqrt(d)) of head h, the T patches with the highest mean over h
of a_h.
"""

import torch

from llava.model.multimodal_encoder.clip_encoder import EncodedCrops
from llava.model.pruning import Budget, Project, highest
from llava.model.visual_token_pruning import keep_patches


def visual_tokens(seen: EncodedCrops, project: Project, budget: Budget) -> tuple[torch.Tensor, torch.LongTensor]:
    kept = highest(seen.cls_attention.mean(dim=1), budget.visual_token_num)
    return project(keep_patches(seen.features, kept)), kept
