"""Records -> batches: ids and labels, pictures decoded in the loader's workers, what is too long cut."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedConfig

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.mm_utils import load_image, process_images
from llava.model.anyres import count_merged_tokens
from llava.train.labels import PromptTokenizer
from llava.train.records import Record
from llava.utils import InputError

# What an image counts for beside the characters of a text when lengths are compared: about 576 tokens.
_IMAGE_CHARACTERS = 2300


class LazySupervisedDataset(Dataset):
    """Records as training samples, each made when it is asked for.

    A sample is `input_ids` and `labels` (length,) int64, with an image also `image` (the tower's pixels) and
    `image_size` (W, H), and `is_cut`: whether it was longer than `config.tokenizer_model_max_length` and lost its end.
    """

    def __init__(
        self,
        records: Sequence[Record],
        prompt_tokenizer: PromptTokenizer,
        image_processor,
        config: PreTrainedConfig,
        patches_per_side: int,
    ):
        """`config` is the LLaVA model's; `patches_per_side` the tower's."""
        self.records, self.prompt_tokenizer = records, prompt_tokenizer
        self.image_processor, self.config, self.patches_per_side = image_processor, config, patches_per_side
        self.limit = config.tokenizer_model_max_length

    def __len__(self) -> int:
        return len(self.records)

    @property
    def lengths(self) -> list[int]:
        """How long each sample is about to be, in characters: for comparison alone, since no text is tokenized."""
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
        sample, visual = {}, 0
        if record.image is not None:
            try:
                image = load_image(record.image)
                pixels = process_images([image], self.image_processor, self.config)[0]
            except InputError as error:
                raise InputError(f"{record.name}: {error}") from error
            sample = {"image": pixels, "image_size": image.size}
            visual = count_merged_tokens(image.size, self.config, self.patches_per_side, self.image_processor)
        kept = _cut(ids, self.limit, visual)
        if sample and IMAGE_TOKEN_INDEX not in ids[:kept]:
            sample = {}
        ids_and_labels = {"input_ids": torch.tensor(ids[:kept]), "labels": torch.tensor(labels[:kept])}
        return sample | ids_and_labels | {"is_cut": kept < len(ids)}


def _cut(ids: list[int], limit: int, visual: int) -> int:
    """How many of a prompt's ids fit into `limit` tokens, its image being `visual` of them, and being whole."""
    place = ids.index(IMAGE_TOKEN_INDEX) if visual else limit
    if place + visual <= limit:
        return min(len(ids), limit - visual + 1 if visual else limit)
    return min(len(ids), place, limit)


@dataclass
class DataCollatorForSupervisedDataset:
    """Samples -> a batch, padded on the right.

    `input_ids` and `labels` (B, longest) int64, `attention_mask` (B, longest) bool; where there are images `images`
    (I, 3, H, W), or a list where some are in crops, and `image_sizes`; `cut` counts the samples that lost their end.
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
