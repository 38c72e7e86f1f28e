"""The order of the training samples: a function of seed and epoch alone, so that a resumed run goes on in it."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Batches that are cut from one sorted stretch: long enough for batches of like lengths, short enough to stay random.
_BATCHES_PER_STRETCH = 50


class EpochSampler(Sampler[int]):
    """Every index once per epoch, in an order of its own for each; set `epoch` before iterating.

    With `lengths` and `has_image`, stretches of `batch_size` indices are of similar length and all with or all without
    an image, but for those left over at the end. `batch_size` is the batch of one optimizer step over all processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        has_image: Sequence[bool] | None = None,
    ):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.lengths, self.has_image = lengths, has_image
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        return iter(order if self.lengths is None else self._grouped(order, generator))

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        batches, rest = [], []
        for kind in (True, False):
            indices = [i for i in order if self.has_image[i] is kind]
            stretch = self.batch_size * _BATCHES_PER_STRETCH
            for start in range(0, len(indices), stretch):
                by_length = sorted(indices[start : start + stretch], key=lambda i: self.lengths[i], reverse=True)
                whole = len(by_length) // self.batch_size * self.batch_size
                batches += [by_length[i : i + self.batch_size] for i in range(0, whole, self.batch_size)]
                rest += by_length[whole:]
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return [i for j in shuffled for i in batches[j]] + rest
