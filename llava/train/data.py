"""Records -> batches of token ids, labels and pixels.

The workers of the data loader decode the images. Samples longer than the model's limit are cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedConfig

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.model.anyres import count_merged_tokens
from llava.train.labels import PromptTokenizer
from llava.train.records import Record
from llava.vision.pictures import load_image, picture_size
from llava.vision.pixels import process_images

# The length of an image in characters of text when samples are compared: about 576 tokens.
_IMAGE_CHARACTERS = 2300


class LazySupervisedDataset(Dataset):
    """Training samples, each made from its record when the loader asks for it.

    A sample is a dict: `input_ids` and `labels`, (length,) int64; `is_cut`, whether it was longer than
    `config.tokenizer_model_max_length` and lost its end; with an image also `image`, the pixels (3, H, W), or
    (crops, 3, H, W) with anyres, and `image_size`, the (W, H) of the file.
    """

    def __init__(
        self,
        records: Sequence[Record],
        prompt_tokenizer: PromptTokenizer,
        image_processor,
        config: PreTrainedConfig,
        patches_per_side: int,
    ):
        """
        Args:
            config: the LLaVA model's.
            patches_per_side: patches along one side of a crop.
        """
        self.records, self.prompt_tokenizer = records, prompt_tokenizer
        self.image_processor, self.config, self.patches_per_side = image_processor, config, patches_per_side
        self.limit = config.tokenizer_model_max_length

    def __len__(self) -> int:
        return len(self.records)

    @property
    def lengths(self) -> list[int]:
        """The approximate length of each sample in characters: enough to compare samples without tokenizing them."""
        return [
            sum(len(text) for turn in record.turns for text in turn) + (record.image is not None) * _IMAGE_CHARACTERS
            for record in self.records
        ]

    @property
    def has_image(self) -> list[bool]:
        return [record.image is not None for record in self.records]

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        ids, labels = self.prompt_tokenizer(record.turns, record.name)
        sample = {}
        if record.image is not None:
            try:
                image = load_image(record.image)
                pixels = process_images([image], self.image_processor, self.config)[0]
            except InputError as error:
                raise InputError(f"{record.name}: {error}") from error
            sample = {"image": pixels, "image_size": image.size}
        kept = self._count_kept(ids, sample.get("image_size"))
        if sample and IMAGE_TOKEN_INDEX not in ids[:kept]:
            sample = {}
        ids_and_labels = {"input_ids": torch.tensor(ids[:kept]), "labels": torch.tensor(labels[:kept])}
        return sample | ids_and_labels | {"is_cut": kept < len(ids)}

    def _count_kept(self, ids: list[int], size: tuple[int, int] | None) -> int:
        """How many ids of a prompt are kept, with an image of this (W, H) or without one."""
        side, processor = self.patches_per_side, self.image_processor
        return count_kept_ids(ids, self.limit, count_merged_tokens(size, self.config, side, processor) if size else 0)

    def require_answers(self) -> None:
        """Raise InputError if no sample has something of an answer in it, when it is cut to the limit."""
        for record in self.records:  # mostly the first has
            ids, labels = self.prompt_tokenizer(record.turns, record.name)
            try:
                kept = self._count_kept(ids, None if record.image is None else picture_size(record.image))
            except InputError as error:
                raise InputError(f"{record.name}: {error}") from error
            if any(label != IGNORE_INDEX for label in labels[:kept]):
                return
        raise InputError(f"there is nothing to learn: within model_max_length {self.limit} no record has an answer")


def count_kept_ids(ids: list[int], limit: int, visual_tokens: int) -> int:
    """How many ids from the start of a prompt fit into `limit` tokens; an image that does not fit whole is left out.

    Args:
        ids: a prompt's, with one id for its image.
        limit: in tokens.
        visual_tokens: tokens that the image takes, 0 without one.
    """
    position = ids.index(IMAGE_TOKEN_INDEX) if visual_tokens else limit
    if position + visual_tokens <= limit:
        return min(len(ids), limit - visual_tokens + 1 if visual_tokens else limit)
    return min(len(ids), position, limit)


@dataclass
class DataCollatorForSupervisedDataset:
    """Samples -> a batch, padded on the right.

    A batch is a dict: `input_ids` and `labels`, (B, longest) int64; `attention_mask`, (B, longest) bool; `cut`, the
    number of samples that lost their end; with images also `images`, a tensor if all have one shape, else a list, and
    `image_sizes`, the (W, H) of each.
    """

    pad_token_id: int

    def __call__(self, samples: list[dict]) -> dict:
        ids = [sample["input_ids"] for sample in samples]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "labels": pad_sequence([s["labels"] for s in samples], batch_first=True, padding_value=IGNORE_INDEX),
            "attention_mask": pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True),
            "cut": sum(sample["is_cut"] for sample in samples),
        }
        if images := [sample["image"] for sample in samples if "image" in sample]:
            same = all(image.shape == images[0].shape for image in images)
            batch["images"] = torch.stack(images) if same else images
            batch["image_sizes"] = [sample["image_size"] for sample in samples if "image" in sample]
        return batch
