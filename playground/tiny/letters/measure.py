"""What a model's hidden states are like, measured while it reads conversations."""

from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX
from llava.train.data import DataCollatorForSupervisedDataset, LazySupervisedDataset
from llava.train.labels import PromptTokenizer
from llava.train.records import Record
from playground.tiny.language_model.model import TEMPLATE


@dataclass
class HiddenStates:
    """Measurements of the hidden states.

    Args:
        sizes: the root mean square before each layer, and after the last one.
        answers: (n, D) float32, the states after the last layer at the token before each answer.
        words: the token ids of each of the n answers.
    """

    sizes: list[float]
    answers: torch.Tensor
    words: list[list[int]]


@torch.no_grad()
def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, image_processor, records: list[Record]
) -> HiddenStates:
    """Measure the hidden states of the model on conversations, each with an image."""
    model.config.tokenizer_model_max_length = model.config.max_position_embeddings
    patches = model.get_vision_tower().num_patches_per_side
    dataset = LazySupervisedDataset(
        records, PromptTokenizer(tokenizer, TEMPLATE), image_processor, model.config, patches
    )
    batches = DataLoader(dataset, 50, collate_fn=DataCollatorForSupervisedDataset(tokenizer.pad_token_id))
    states: list[torch.Tensor] = []
    modules = [*model.model.layers, model.model.norm]
    hooks = [module.register_forward_pre_hook(lambda _, args: states.append(args[0])) for module in modules]
    squares, answers, words = torch.zeros(len(modules)), [], []
    for batch in tqdm(batches, desc="reading"):
        ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        _, positions, mask, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(
            ids, None, mask, None, labels, batch["images"], batch["image_sizes"]
        )
        states.clear()
        model.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
        is_token = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask.bool()
        squares += torch.stack([state[is_token].square().mean() for state in states])
        for row, first in first_answer_tokens(labels):
            rest = labels[row, first:]
            answers.append(states[-1][row, first - 1])
            words.append(rest[(rest == IGNORE_INDEX).cumsum(dim=0) == 0].tolist())
    for hook in hooks:
        hook.remove()
    return HiddenStates((squares / len(batches)).sqrt().tolist(), torch.stack(answers), words)


def first_answer_tokens(labels: torch.LongTensor) -> list[list[int]]:
    """The [row, column] of the first token of each answer in labels (B, length)."""
    is_answer = labels != IGNORE_INDEX
    return (is_answer & ~is_answer.roll(1, dims=1)).nonzero().tolist()
