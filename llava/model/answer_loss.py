"""The loss of training: cross-entropy on the answers alone, and the output layer computed nowhere else."""

import torch
from torch import nn

from llava.constants import IGNORE_INDEX


def answer_loss(
    hidden: torch.Tensor, labels: torch.LongTensor, lm_head: nn.Module, num_items: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy of predicting each label from the position before it, where the label is not -100.

    Args:
        hidden: (B, length, D), the last layer's output.
        labels: (B, length) int64.
        lm_head: D channels to the vocabulary.
        num_items: what the sum is divided by; the number of labels if None, which makes it their mean.

    Returns: a float32 scalar, 0 where nothing is to be learned.
    """
    targets = labels[:, 1:]
    is_answer = targets != IGNORE_INDEX
    logits = lm_head(hidden[:, :-1][is_answer]).float()
    total = nn.functional.cross_entropy(logits, targets[is_answer], reduction="sum")
    items = is_answer.sum() if num_items is None else torch.as_tensor(num_items, device=total.device)
    return total / items.clamp(min=1)
