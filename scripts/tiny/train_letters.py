"""Train on from what scripts.tiny.letters wrote: python -m scripts.tiny.train_letters [option of llava.train.train...]

What was put in stays as it is but for what reads the answer's word and what says the letter: the new channels are so
small that the steps which the old ones need would wipe them out.
"""

import re
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel, TrainerCallback

from llava.train.train import main
from llava.utils import run_command
from scripts.tiny.letters import NEW


def held_parts(model: PreTrainedModel) -> Iterator[tuple[torch.nn.Parameter, tuple[slice, ...]]]:
    """The trained weights with a part that stays, and where that is in them."""
    rows, columns = (slice(-NEW, None),), (slice(None), slice(-NEW, None))
    reads_answer = f"layers.{model.config.num_hidden_layers - 1}.self_attn.q_proj"
    for name, weight in model.named_parameters():
        if not weight.requires_grad or reads_answer in name:
            continue
        if "embed_tokens" in name:
            yield weight, columns
        elif re.search(r"[qkvo]_proj|down_proj|norm\.|mm_projector\.2", name):
            yield weight, rows


class HeldParts(TrainerCallback):
    """Puts what `held_parts` names back after each step."""

    def on_train_begin(self, args, state, control, model=None, **_) -> None:
        self.held = [(weight, part, weight.detach()[part].clone()) for weight, part in held_parts(model)]

    @torch.no_grad()
    def on_step_end(self, args, state, control, **_) -> None:
        for weight, part, value in self.held:
            weight[part] = value


if __name__ == "__main__":
    run_command(lambda: main([HeldParts()]))
