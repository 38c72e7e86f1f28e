"""Train a tokenizer and a small Llama on text: python -m scripts.tiny.language_model --text F --output DIR

The text is conversations in which a caption stands where the picture will be. What comes out is a plain Llama
checkpoint with Vicuna's kind of tokenizer, the starting point of LLaVA's two stages. A run that is cut off goes on
where it was.
"""

import io
import json
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from llava.constants import IGNORE_INDEX
from llava.conversation import get_conversation
from llava.model.tokenizer import LlamaSentencePieceTokenizer
from llava.utils import CommandParser, InputError, run_command

WIDTH, LAYERS, HEADS, CONTEXT = 192, 6, 6, 2048
VOCABULARY = 1400


def read_conversations(path: Path, number: int) -> list[str]:
    """The first conversations of a text file, in the form that Vicuna was trained with."""
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    texts = []
    with path.open(encoding="utf-8") as file:
        for _, line in zip(range(number), file):
            conversation = get_conversation("v1")
            for question, answer in json.loads(line):
                conversation.append_message(conversation.roles[0], question)
                conversation.append_message(conversation.roles[1], answer)
            texts.append(conversation.get_prompt())
    return texts


def make_tokenizer(texts: list[str], folder: Path) -> LlamaSentencePieceTokenizer:
    """A sentencepiece BPE with byte fallback and ids 0, 1, 2 = unk, bos, eos, saved as Vicuna's is."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.replace("</s>", "\n").split("\n")]),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = LlamaSentencePieceTokenizer(
        str(folder / "tokenizer.model"), legacy=False, padding_side="right", model_max_length=CONTEXT
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


class Conversations(Dataset):
    """Token ids of conversations; every token is to be predicted."""

    def __init__(self, texts: list[str], tokenizer: LlamaSentencePieceTokenizer) -> None:
        self.texts, self.tokenizer = texts, tokenizer

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(self.tokenizer(self.texts[index]).input_ids)


def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch padded on the right, where the padding is not to be predicted."""
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORE_INDEX)}


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="text.txt of scripts.tiny.data")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--conversations", type=int, default=9_600)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    args = parser.parse_args()
    texts = read_conversations(args.text, args.conversations)
    tokenizer = make_tokenizer(texts, args.output)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH * 8 // 3,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        vocab_size=len(tokenizer),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    settings = TrainingArguments(
        output_dir=str(args.output / "training"),
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        weight_decay=0.05,
        adam_beta2=0.98,
        num_train_epochs=1,
        bf16=True,
        use_cpu=not torch.accelerator.is_available(),  # or else transformers refuses bf16
        logging_steps=20,
        save_steps=100,
        save_total_limit=1,
        dataloader_num_workers=1,
        report_to="none",
    )
    trainer = Trainer(
        model=LlamaForCausalLM(config),
        args=settings,
        train_dataset=Conversations(texts, tokenizer),
        data_collator=collate,
    )
    folder = args.output / "training"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.exists() else None)
    trainer.model.float().save_pretrained(args.output)


if __name__ == "__main__":
    run_command(main)
