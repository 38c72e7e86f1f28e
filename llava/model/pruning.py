"""The pruning methods by name, and what they share.

A method is a file of `pruning_methods/`, known by the file's name: adding one touches no other file. Those that choose
before the language model define

    visual_tokens(seen: EncodedCrops, project: Project, budget: Budget) -> (tokens, kept)

with the projected tokens (K, T, D) and the patches (K, T) that they are, ascending, or None where tokens are merged.
The one that chooses inside the language model defines `prune_decoder` and `FULL_LAYERS` (see `fastv`). VisPruner, the
default, is in `visual_token_pruning.py` and inline in `llava_arch.py`.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from llava.model import pruning_methods
from llava.model.visual_token_pruning import check_budget

Project = Callable[[torch.Tensor], torch.Tensor]  # (K, T, C) -> (K, T, D)
VISPRUNER, NONE = "vispruner", "none"
PRUNING_METHODS = (VISPRUNER, NONE, *sorted(module.name for module in pkgutil.iter_modules(pruning_methods.__path__)))


@dataclass(frozen=True)
class Budget:
    """T, the visual tokens to keep of each crop, and the seed of what is drawn at random."""

    visual_token_num: int
    seed: int = 0


def check_pruning_method(name: str) -> None:
    """Raise ValueError unless there is such a method."""
    if name not in PRUNING_METHODS:
        raise ValueError(f"pruning_method must be one of {', '.join(PRUNING_METHODS)}, got {name!r}")


def load_method(name: str) -> ModuleType | None:
    """The module of a method; None for the two that have none of their own."""
    check_pruning_method(name)
    return None if name in (VISPRUNER, NONE) else importlib.import_module(f"{pruning_methods.__name__}.{name}")


def chooses_patches(method: ModuleType | None) -> bool:
    """Whether a method chooses before the language model."""
    return method is None or hasattr(method, "visual_tokens")


class PruningSettings:
    """What a model keeps of a picture; everything may be changed between calls, and nonsense is a ValueError.

    `pruning_seed` is the seed of what is drawn at random.
    """

    pruning_seed = 0
    _visual_token_num: int | None = None
    _important_ratio: float = 0.5
    _pruning_method: str = VISPRUNER

    @property
    def visual_token_num(self) -> int | None:
        """Visual tokens kept of each crop; None means no pruning. Setting anything but an integer >= 1 is an error."""
        return self._visual_token_num

    @visual_token_num.setter
    def visual_token_num(self, value: int | None) -> None:
        check_budget(value, self._important_ratio)
        self._visual_token_num = value

    @property
    def important_ratio(self) -> float:
        """VisPruner's share in [0, 1] of the kept tokens that is chosen by [CLS] attention."""
        return self._important_ratio

    @important_ratio.setter
    def important_ratio(self, value: float) -> None:
        check_budget(self._visual_token_num, value)
        self._important_ratio = value

    @property
    def pruning_method(self) -> str:
        """One of `PRUNING_METHODS`."""
        return self._pruning_method

    @pruning_method.setter
    def pruning_method(self, value: str) -> None:
        check_pruning_method(value)
        self._pruning_method = value

    @property
    def prunes_in_decoder(self) -> bool:
        """Whether visual tokens are dropped inside the language model, so that a prompt is more than its parts."""
        return self._visual_token_num is not None and not chooses_patches(load_method(self._pruning_method))


def highest(scores: torch.Tensor, number: int) -> torch.LongTensor:
    """Positions (K, number) of the highest of (K, N) scores, ascending; of equal ones the lower position is taken."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :number].sort(dim=1).values
