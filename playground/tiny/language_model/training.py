"""The training of the tiny language model, on conversations with words in place of the picture."""

import argparse
import random
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, SequentialSampler
from transformers import LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from llava.checkpoints.tokenizer import LlamaSentencePieceTokenizer
from llava.constants import IGNORE_INDEX
from llava.model.answer_loss import answer_loss
from llava.model.splice import EmbeddedPrompts, splice
from llava.train.labels import PromptTokenizer
from llava.train.records import Record, read_records
from playground.tiny.language_model.lessons import STEPS, lessons
from playground.tiny.language_model.model import TEMPLATE, make_llama, make_tokenizer
from playground.tiny.muon import MuonWithRest, hidden_matrices
from playground.tiny.options import make_folder
from playground.tiny.patches import draw_shown_patches, words_of_patches
from playground.tiny.scenes import make_scene

# The share of the patches that the model gets: of those of objects and signs, and of those of the background.
SHOWN, SHOWN_BACKGROUND = 0.4, 0.08


class Conversations(Dataset):
    """Conversations as ids and labels, with the ids of the words for some of the patches of their scenes."""

    def __init__(self, records: list[Record], tokenizer: LlamaSentencePieceTokenizer) -> None:
        self.records, self.tokenizer, self.prompts = records, tokenizer, PromptTokenizer(tokenizer, TEMPLATE)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        ids, labels = self.prompts(record.turns, record.name)
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "patches": self._patches(record)}

    def _patches(self, record: Record) -> list[list[int]]:
        if record.image is None:
            return []
        seed = int(Path(record.image).stem)
        scene = make_scene(seed)
        shown = draw_shown_patches(scene, random.Random(f"patches {seed}"), SHOWN, SHOWN_BACKGROUND)
        words = (text for text, is_shown in zip(words_of_patches(scene), shown) if is_shown)
        return [self.tokenizer(text).input_ids[1:] for text in words]


class LlamaWithPatchWords(torch.nn.Module):
    """The language model, with a vector for the words of each patch where LLaVA has the visual tokens."""

    def __init__(self, llama: LlamaForCausalLM) -> None:
        super().__init__()
        self.llama = llama

    def forward(self, rows: list[dict], num_items_in_batch=None) -> dict[str, torch.Tensor]:
        """The loss of a batch of `Conversations`."""
        prompts = [self._embed_prompt(**row) for row in rows]
        embeds = pad_sequence([prompt.inputs_embeds[0] for prompt in prompts], batch_first=True)
        labels = pad_sequence([prompt.labels[0] for prompt in prompts], batch_first=True, padding_value=IGNORE_INDEX)
        hidden = self.llama.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return {"loss": answer_loss(hidden, labels, self.llama.lm_head, num_items_in_batch)}

    def _embed_prompt(
        self, input_ids: torch.LongTensor, labels: torch.LongTensor, patches: list[list[int]]
    ) -> EmbeddedPrompts:
        """A conversation (length,), with the vectors of its patches in place of the image token if it has any."""
        visual = [self._embed_patches(patches)] if patches else []
        mask = torch.ones_like(input_ids, dtype=torch.bool)
        embed = self.llama.get_input_embeddings()
        return splice(input_ids[None], mask[None], labels[None], visual, embed, padding_side="right")

    def _embed_patches(self, patches: list[list[int]]) -> torch.Tensor:
        """(patches, D): the sum of the embeddings of each patch's words."""
        weight = self.llama.get_input_embeddings().weight
        flat = torch.tensor([token for patch in patches for token in patch], dtype=torch.long)
        starts = torch.tensor([0, *map(len, patches)][:-1], dtype=torch.long).cumsum(0)
        return torch.nn.functional.embedding_bag(flat.to(weight.device), weight, starts.to(weight.device), mode="sum")

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.llama.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.llama.get_output_embeddings()


class WordsTrainer(Trainer):
    """A Trainer with Muon for the matrices, the model's own loss, and the records in their order."""

    def _get_train_sampler(self, train_dataset=None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            rest = super().create_optimizer()
            self.optimizer = MuonWithRest(hidden_matrices(self.model), rest, 7.5 * self.args.learning_rate, 0.0)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(inputs["rows"])["loss"]


def training_arguments(output: Path, batch_size: int, learning_rate: float) -> TrainingArguments:
    """transformers' arguments of the training."""
    return TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=batch_size,
        max_steps=STEPS,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=25,
        weight_decay=0,
        adam_beta2=0.98,
        bf16=True,
        use_cpu=not torch.accelerator.is_available(),  # transformers refuses bf16 on a CPU without it
        remove_unused_columns=False,
        logging_steps=10,
        save_steps=50,
        save_total_limit=1,
        dataloader_num_workers=1,
        report_to="none",
    )


def train(args: argparse.Namespace) -> None:
    """Train to the end, from the last checkpoint in `args.output` if there is one. Writes a Llama checkpoint there."""
    mixed = read_records(args.data / "finetune.json", args.data / "images", TEMPLATE)
    make_folder(args.output)
    records = lessons(mixed[: STEPS * args.batch_size], args.batch_size)
    tokenizer = make_tokenizer(mixed[: len(mixed) // 3], args.output)
    folder = args.output / "training"
    settings = training_arguments(folder, args.batch_size, args.learning_rate)
    model = make_llama(len(tokenizer))
    trainer = WordsTrainer(
        model=LlamaWithPatchWords(model),
        args=settings,
        train_dataset=Conversations(records, tokenizer),
        data_collator=lambda rows: {"rows": rows},
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.exists() else None)
    model.float().save_pretrained(args.output)
