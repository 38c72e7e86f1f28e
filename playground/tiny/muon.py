"""Muon for weight matrices, combined with another optimizer for the other weights.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). The steps are scaled as in Liu et al.,
"Muon is Scalable for LLM Training", arXiv 2502.16982.
"""

from typing import Any

import torch
from torch import nn

from llava.train.llava_trainer import LLaVATrainer

_FACTOR = 3  # the learning rate of LLaVA's matrices, times that of its other weights


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained weights for Muon: the matrices, except the embeddings and the output layer."""
    outer = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    excluded = {id(parameter) for module in outer for parameter in module.parameters()}
    return [p for p in model.parameters() if p.requires_grad and p.ndim == 2 and id(p) not in excluded]


class MuonWithRest(torch.optim.Optimizer):
    """Muon for some weights and an existing optimizer for the others, used as one optimizer.

    Args:
        matrices: (rows, columns) float; they are removed from `rest`.
        rest: any optimizer.
        lr: Muon's learning rate. Steps are scaled to the size of AdamW's, so that learning rates for AdamW fit.
        weight_decay: Muon's.
    """

    def __init__(
        self, matrices: list[nn.Parameter], rest: torch.optim.Optimizer, lr: float, weight_decay: float
    ) -> None:
        taken = {id(parameter) for parameter in matrices}
        for group in rest.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        super().__init__(muon.param_groups + rest.param_groups, {})
        self.parts = {"muon": muon, "rest": rest}
        self._share_groups()

    def _share_groups(self) -> None:
        """Make `param_groups` the groups of both parts, so that a learning rate set there is set in the parts."""
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._share_groups()


class MuonTrainer(LLaVATrainer):
    """LLaVA's Trainer with Muon for the matrices."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimizer for the other weights, and Muon at `_FACTOR` times `learning_rate`."""
        if self.optimizer is None:
            rest, args = super().create_optimizer(model), self.args
            lr = _FACTOR * args.learning_rate
            self.optimizer = MuonWithRest(hidden_matrices(self.model), rest, lr, args.weight_decay)
        return self.optimizer
