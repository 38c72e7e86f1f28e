"""Training that leaves the weights that find letters as they are."""

import re
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel, TrainerCallback

from playground.tiny.letters.grow import NEW


def fixed_parts(model: PreTrainedModel) -> Iterator[tuple[torch.nn.Parameter, tuple[slice, ...]]]:
    """The trained parameters that have a fixed part, each with the slices of that part."""
    rows, columns = (slice(-NEW, None),), (slice(None), slice(-NEW, None))
    reads_answer = f"layers.{model.config.num_hidden_layers - 1}.self_attn.q_proj"
    for name, weight in model.named_parameters():
        if not weight.requires_grad or reads_answer in name:
            continue
        if "embed_tokens" in name:
            yield weight, columns
        elif re.search(r"[qkvo]_proj|down_proj|norm\.|mm_projector\.2", name):
            yield weight, rows


class FixedParts(TrainerCallback):
    """Resets the fixed parts to their first values after each step."""

    def on_train_begin(self, args, state, control, model=None, **_) -> None:
        self.parts = [(weight, part, weight.detach()[part].clone()) for weight, part in fixed_parts(model)]

    @torch.no_grad()
    def on_step_end(self, args, state, control, **_) -> None:
        for weight, part, value in self.parts:
            weight[part] = value
