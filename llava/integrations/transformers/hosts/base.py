"""What a host is: one of transformers' vision-language models, as far as pruning has to know it.

A host is a file of this folder that defines `HOST`, an instance of a subclass of `Host`. It says where the pictures'
features, their importance and their placeholders are. All else is the same for every model: see `prompts` and
`wrapping`.

Shapes: B prompts, L their longest, n placeholders of one picture, K crops or frames of it, N patches of a crop,
C channels of what is compared, D model channels.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from llava.pruning import Views


@dataclass(frozen=True)
class Picture:
    """One picture or video as the host encodes it, and what a method may choose of it.

    Attributes:
        tokens: (n, D), what the host puts in place of its placeholders, in their order.
        views: of K crops of N patches; where the host merges patches, a patch stands for a merged token here.
        places: (K, N) int64: which of the n placeholders is each patch's, -1 for a patch that has none. Placeholders
            that are no patch's, such as newlines, always stay.
        layers: tensors (n, D) that the host adds in layers of its language model (deepstack).
        given: what else the host needs to know of it for `Host.positions`.
    """

    tokens: torch.Tensor
    views: Views
    places: torch.LongTensor
    layers: tuple[torch.Tensor, ...] = ()
    given: dict[str, torch.Tensor] = field(default_factory=dict)


class Host:
    """What pruning has to know of one of transformers' models.

    Attributes:
        models: names of the classes.
        inputs: arguments of `forward` that are about pictures; those that are tensors have pictures in their first
            dimension unless `split` says otherwise.
        aligned: arguments of `forward` that have a value for each token of the prompt, (B, L).
    """

    models: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("pixel_values",)
    aligned: tuple[str, ...] = ()

    def split(self, model: PreTrainedModel, given: dict) -> list[tuple[int, list[dict]]]:
        """The arguments `inputs` for each picture alone: for each kind of placeholder its token id, and the pictures.

        `join` puts some of them together again.
        """
        return [(self.image_token(model), split_first(given, self.inputs))]

    def image_token(self, model: PreTrainedModel) -> int:
        """The id of an image's placeholders."""
        return model.config.image_token_id

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        """Encode the pictures of some arguments of `split`, joined, whose placeholder is `token`."""
        raise NotImplementedError

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        """N of the largest crop of any picture, without encoding it."""
        raise NotImplementedError

    def positions(
        self, model: PreTrainedModel, input_ids: torch.LongTensor, mask: torch.BoolTensor, pictures: list[Picture]
    ) -> torch.LongTensor | None:
        """(3, B, L) positions of M-RoPE for all tokens of prompts that begin at 0; None if positions are numbers.

        `pictures` are those of the prompts, one kind after the other.
        """
        return None

    def entering(
        self, model: PreTrainedModel, is_visual: torch.BoolTensor, layers: tuple[torch.Tensor, ...]
    ) -> AbstractContextManager:
        """What surrounds the call of the model's own `forward` where visual tokens enter.

        Args:
            is_visual: (B, L).
            layers: as in `Picture`, of the tokens that `is_visual`, in their order.
        """
        return nullcontext()


def split_first(given: dict, names: tuple[str, ...]) -> list[dict]:
    """Arguments for each picture: every tensor of `names` is cut along its first dimension, the rest goes to all."""
    tensors = {name: given[name] for name in names if isinstance(given.get(name), torch.Tensor)}
    rest = {name: value for name, value in given.items() if name not in tensors}
    number = min(map(len, tensors.values()), default=0)
    return [{**rest, **{name: value[i : i + 1] for name, value in tensors.items()}} for i in range(number)]


def join(parts: list[dict]) -> dict:
    """The arguments of several pictures as one set of arguments."""
    return {
        name: torch.cat([part[name] for part in parts]) if isinstance(value, torch.Tensor) else value
        for name, value in parts[0].items()
    }
