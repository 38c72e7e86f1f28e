"""What a host is: one of transformers' vision-language models, as far as pruning has to know it.

A host is a file of this folder that defines `HOST`, an instance of a subclass of `Host`. It says where the pictures'
features, their importance and their placeholders are. All else is the same for every model: see `prompts` and
`wrapping`.

Shapes: B prompts, L their longest, n placeholders of one picture, K crops or frames of it, N patches of a crop,
C channels of what is compared, D model channels.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from llava.errors import InputError
from llava.pruning import Settings, Views
from llava.pruning.settings import AFTER, IMAGE

_VIDEOS = "pixel_values_videos"  # as all hosts name the frames of videos


@dataclass(frozen=True)
class Picture:
    """One picture or video as the host encodes it, and what a method may choose of it.

    Attributes:
        tokens: (n, D), what the host puts in place of its placeholders, in their order.
        views: of K crops of N patches; where the host merges patches, a patch stands for a merged token here.
        places: (K, N) int64: which of the n placeholders is each patch's, -1 for a patch that has none. Placeholders
            that are no patch's, such as newlines, always stay.
        layers: tensors (n, D) that the host adds in layers of its language model (deepstack).
        is_video: whether its crops are frames.
    """

    tokens: torch.Tensor
    views: Views
    places: torch.LongTensor
    layers: tuple[torch.Tensor, ...] = ()
    is_video: bool = False

    @staticmethod
    def joined(crops: list["Picture"]) -> "Picture":
        """Crops that the host encodes as pictures of their own, as one picture."""
        starts = itertools.accumulate((len(crop.tokens) for crop in crops), initial=0)
        places = [crop.places.where(crop.places < 0, crop.places + start) for crop, start in zip(crops, starts)]
        layers = tuple(torch.cat(layer) for layer in zip(*(crop.layers for crop in crops)))
        tokens = torch.cat([crop.tokens for crop in crops])
        return Picture(tokens, Views.joined([crop.views for crop in crops]), torch.cat(places), layers)


class Host:
    """What pruning has to know of one of transformers' models.

    Attributes:
        models: names of the classes.
        inputs: arguments of `forward` that are about pictures; those that are tensors have pictures in their first
            dimension unless `split` says otherwise.
        aligned: arguments of `forward` that have a value for each token of the prompt, (B, L).
        has_axes: whether positions have three axes (M-RoPE), which tokens always keep.
        first_position: the position of a prompt's first token.
        splits_crops: whether `split` takes crops of one picture, side by side in prompts, for pictures of their own.
        knows_pictures: whether it can be told which crops are of one picture, so that they share a budget.
        written: a regular expression of words that the processor writes beside a picture and that are no special
            tokens, so that they are not taken for the user's; "" for none.
    """

    models: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("pixel_values",)
    aligned: tuple[str, ...] = ()
    has_axes: bool = False
    first_position: int = 0
    splits_crops: bool = False
    knows_pictures: bool = True
    written: str = ""

    @property
    def takes_videos(self) -> bool:
        """Whether it has arguments for videos."""
        return any(name.endswith(_VIDEOS) for name in self.inputs)

    def check(self, settings: Settings) -> None:
        """Raise InputError for settings that this host cannot have."""
        if settings.prunes and settings.budget_per == IMAGE and not self.knows_pictures:
            name = self.models[0]
            raise InputError(f"budget_per: {name} does not tell which crops are of one picture: T counts per crop")
        if self.has_axes and settings.prunes and settings.positions == AFTER:
            raise InputError(f"positions: tokens of {self.models[0]} keep their own (M-RoPE), as 'original' says")

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

    def placeholders(self, model: PreTrainedModel, token: int, given: dict) -> int:
        """n of a picture of `split` whose placeholder is `token`, without encoding it."""
        return self.largest_crop(model, given)

    def whole_pictures(
        self, model: PreTrainedModel, parts: list[Picture], ids: torch.LongTensor, is_own: torch.BoolTensor
    ) -> list[Picture]:
        """The pictures that `split` and `encode` took for one each, with crops of one picture put together.

        Args:
            is_own: (B, L), where their placeholders are in prompts `ids`.

        Raises InputError where the prompts do not tell.
        """
        return parts

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        """N of the largest crop of any picture, without encoding it."""
        raise NotImplementedError

    def positions(
        self,
        model: PreTrainedModel,
        input_ids: torch.LongTensor,
        mask: torch.BoolTensor,
        pictures: dict[int, list[dict]],
    ) -> torch.LongTensor | None:
        """(3, B, L) positions of M-RoPE for all tokens of prompts that begin at 0; None if positions are numbers.

        `pictures` are those of the prompts, as `split` gives them.
        """
        return None

    def more_inputs(
        self, model: PreTrainedModel, ids: torch.LongTensor, is_visual: torch.BoolTensor, embeds: torch.Tensor
    ) -> dict:
        """More arguments of the model's own `forward`, which is given embeddings where visual tokens enter.

        Args:
            ids, is_visual: (B, L).
            embeds: (B, L, D), with the visual tokens.
        """
        return {}

    def entering(
        self, model: PreTrainedModel, is_visual: torch.BoolTensor, layers: tuple[torch.Tensor, ...]
    ) -> AbstractContextManager:
        """What surrounds the call of the model's own `forward` where visual tokens enter.

        Args:
            is_visual: (B, L).
            layers: as in `Picture`, of the tokens that `is_visual`, in their order.
        """
        return nullcontext()


@contextmanager
def handing_on(module: torch.nn.Module, change: Callable[[dict], dict]) -> Iterator[None]:
    """Within, what this thread's calls of a module are given by name is what `change` makes of it."""
    thread = threading.get_ident()

    def changed(module: torch.nn.Module, args: tuple, kwargs: dict | None = None) -> tuple | None:
        if threading.get_ident() != thread:
            return None  # also where another thread has removed half of the hook, and there are no kwargs
        return args, change(kwargs)

    handle = module.register_forward_pre_hook(changed, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def runs_of(is_own: torch.BoolTensor) -> list[tuple[int, int, int]]:
    """The row, the first column and the column after the last, of each run of trues in (B, L), row after row."""
    padded = torch.nn.functional.pad(is_own.int(), (1, 1))
    changes = padded.diff(dim=1)
    starts, ends = (changes == 1).nonzero().tolist(), (changes == -1).nonzero()[:, 1].tolist()
    return [(row, start, end) for (row, start), end in zip(starts, ends)]


def join_crops(crops: list[Picture], numbers: list[int]) -> list[Picture]:
    """Pictures of crops that were encoded for themselves; `numbers` are the placeholders of each picture."""
    pictures, crops = [], iter(crops)
    for number in numbers:
        own = []
        while (missing := number - sum(len(crop.tokens) for crop in own)) > 0 and (crop := next(crops, None)):
            own.append(crop)
        if missing:
            raise InputError("budget_per: the crops of a picture are spread over its prompt: T counts per crop there")
        pictures.append(Picture.joined(own))
    return pictures


def split_first(given: dict, names: tuple[str, ...]) -> list[dict]:
    """Arguments for each picture: every tensor of `names` is cut along its first dimension, the rest goes to all.

    A list of tensors, such as videos of different lengths, has those of a picture each.
    """
    several = {name: given[name] for name in names if _is_of_each(given.get(name))}
    rest = {name: value for name, value in given.items() if name not in several}
    number = min(map(len, several.values()), default=0)
    return [{**rest, **{name: value[i].unsqueeze(0) for name, value in several.items()}} for i in range(number)]


def _is_of_each(value: object) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return isinstance(value, torch.Tensor) or (is_list and all(isinstance(own, torch.Tensor) for own in value))


def is_video(part: dict) -> bool:
    """Whether the arguments of a picture, as `split` gives them, are those of a video."""
    return part.get(_VIDEOS) is not None


def join(parts: list[dict]) -> dict:
    """The arguments of several pictures as one set of arguments."""
    return {
        name: torch.cat([part[name] for part in parts]) if isinstance(value, torch.Tensor) else value
        for name, value in parts[0].items()
    }
