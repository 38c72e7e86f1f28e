"""The order of the training samples. It depends on seed and epoch alone, so that a resumed run continues it."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Samples are sorted by length in groups of this many batches: many for similar lengths, few for a random order.
_BATCHES_PER_GROUP = 50


class EpochSampler(Sampler[int]):
    """Yields every index once per epoch, in another order in each epoch; call `set_epoch` before iterating.

    With `lengths` and `has_image`, each run of `batch_size` indices has samples of similar length, all with an image or
    all without. The samples that fill no such batch come at the end of the epoch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        has_image: Sequence[bool] | None = None,
    ):
        """
        Args:
            size: number of samples.
            batch_size: samples of one optimizer step over all processes.
            lengths: of the samples, in any unit; None for a random order.
            has_image: for each sample, needed with `lengths`.
        """
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
        for with_image in (True, False):
            indices = [i for i in order if self.has_image[i] is with_image]
            group = self.batch_size * _BATCHES_PER_GROUP
            for start in range(0, len(indices), group):
                by_length = sorted(indices[start : start + group], key=lambda i: self.lengths[i], reverse=True)
                whole = len(by_length) // self.batch_size * self.batch_size
                batches += [by_length[i : i + self.batch_size] for i in range(0, whole, self.batch_size)]
                rest += by_length[whole:]
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return [i for j in shuffled for i in batches[j]] + rest
