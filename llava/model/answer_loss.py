"""The loss of training: cross-entropy on the answers alone, and the output layer computed nowhere else."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from llava.constants import IGNORE_INDEX
from llava.pruning import Settings


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


def training_loss(
    model: PreTrainedModel,
    input_ids,
    attention_mask,
    labels,
    images,
    image_sizes,
    num_items: torch.Tensor | int | None,
    pruning: Settings | None = None,
    question: str | list[str] | None = None,
) -> CausalLMOutputWithPast:
    """A LLaVA model's loss on the labels that are not -100, without logits.

    `question` is that of `embed_prompts`.

    Sequences are padded on the right, where causal attention needs no mask, but for positions with gaps: without one,
    transformers takes these for packed sequences. Every step has a gradient for the projector, zero where the batch has
    no image, as DDP demands.
    """
    prompts = model.embed_prompts(input_ids, attention_mask, labels, images, image_sizes, "right", pruning, question)
    embeds = prompts.inputs_embeds
    if not prompts.num_visual_tokens:
        embeds = embeds + _no_gradient(model)
    placed = {}
    if (pruning or model.pruning).keeps_room:
        placed = {"position_ids": prompts.positions(), "attention_mask": prompts.attention_mask}
    hidden = model.model(inputs_embeds=embeds, use_cache=False, **placed).last_hidden_state
    return CausalLMOutputWithPast(loss=answer_loss(hidden, prompts.labels, model.lm_head, num_items))


def _no_gradient(model: PreTrainedModel) -> torch.Tensor:
    """Zero, computed from the vision side's trained weights."""
    like = model.model.embed_tokens.weight
    vision = [*model.model.mm_projector.parameters(), getattr(model.model, "image_newline", None)]
    return sum((weight.sum() * 0 for weight in vision if weight is not None), like.new_zeros(()))
