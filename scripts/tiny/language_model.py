"""Train a tokenizer and a small Llama without eyes: python -m scripts.tiny.language_model --data DIR --output DIR

It learns from conversations such as LLaVA's stage 2 is trained on. Where the image will be there are words: for each
of some patches of the scene one vector, the sum of the embeddings of the words for what it shows. What comes out is a
plain Llama checkpoint with Vicuna's kind of tokenizer, the starting point of LLaVA's two stages. A run that is cut off
goes on where it was.

Lists come first, which teach to find a thing by its name. Then skills are drilled one after another in half of each
batch: in the mixture, questions such as whether something is there stay at chance for hundreds of steps, alone they are
learned in some twenty, and they are not lost again.
"""

import io
import random
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from llava.constants import IGNORE_INDEX
from llava.model.answer_loss import answer_loss
from llava.model.splice import splice
from llava.model.tokenizer import LlamaSentencePieceTokenizer
from llava.train.labels import PromptTokenizer, build_prompt
from llava.train.muon import MuonWithRest, hidden_matrices
from llava.train.records import Record, read_records
from llava.utils import CommandParser, run_command
from scripts.tiny.data import DRILLS, Turns, drill_turns, list_turns, record
from scripts.tiny.scenes import Scene, make_scene, words_of_patches

WIDTH, LAYERS, HEADS, CONTEXT = 192, 6, 6, 2048
VOCABULARY = 1400
TEMPLATE = "v1"
# Steps of lists, of the mixture, of each drill, and of the mixture again.
LISTS, FIRST_MIX, DRILL, LAST_MIX = 300, 100, 60, 200
STEPS = LISTS + FIRST_MIX + len(DRILLS) * DRILL + LAST_MIX
# Shares of the patches that are shown: of objects and signs, and of the background.
SHOWN, SHOWN_BACKGROUND = 0.4, 0.08


def make_tokenizer(records: list[Record], folder: Path) -> LlamaSentencePieceTokenizer:
    """A sentencepiece BPE with byte fallback and ids 0, 1, 2 = unk, bos, eos, saved as Vicuna's is."""
    model = io.BytesIO()
    texts = (build_prompt(record.turns, TEMPLATE)[0].replace("</s>", "\n") for record in records)
    SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.split("\n")),
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


def make_llama(vocabulary: int) -> LlamaForCausalLM:
    """The language model before training.

    Embeddings begin large and nearly orthogonal, and the output layer as a copy of them: to find a word among patches
    and to say it, what pictures are asked about, is then near at hand. With both small and apart it took more than
    three times as many steps.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=WIDTH,
            intermediate_size=WIDTH * 8 // 3,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=CONTEXT,
            vocab_size=vocabulary,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight.normal_()
        model.lm_head.weight.copy_(0.05 * embeddings)
    return model


class Conversations(Dataset):
    """Conversations as ids and labels, and the words for some of the patches of their scenes, as lists of ids."""

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
        scene, rng = make_scene(seed), random.Random(f"patches {seed}")
        words = words_of_patches(scene)
        shown = [rng.random() < (SHOWN_BACKGROUND if text == scene.background else SHOWN) for text in words]
        for text in set(words):  # nothing that is asked about is left out
            of_it = [i for i, other in enumerate(words) if other == text]
            shown[rng.choice(of_it)] = True
        return [self.tokenizer(text).input_ids[1:] for text, is_shown in zip(words, shown) if is_shown]


class _Blind(torch.nn.Module):
    """The language model, which sees words instead of patches."""

    def __init__(self, llama: LlamaForCausalLM) -> None:
        super().__init__()
        self.llama = llama

    def forward(self, rows: list[dict], num_items_in_batch=None) -> dict[str, torch.Tensor]:
        embed = self.llama.get_input_embeddings()
        spliced = []
        for row in rows:
            flat = torch.tensor([token for patch in row["patches"] for token in patch], dtype=torch.long)
            starts = torch.tensor([0, *map(len, row["patches"])][:-1], dtype=torch.long).cumsum(0)
            seen = torch.nn.functional.embedding_bag(
                flat.to(embed.weight.device), embed.weight, starts.to(embed.weight.device), mode="sum"
            )
            spliced.append(splice(row["input_ids"], row["labels"], iter([seen]), embed))
        embeds = pad_sequence([row for row, _ in spliced], batch_first=True)
        labels = pad_sequence([row for _, row in spliced], batch_first=True, padding_value=IGNORE_INDEX)
        hidden = self.llama.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return {"loss": answer_loss(hidden, labels, self.llama.lm_head, num_items_in_batch)}

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.llama.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.llama.get_output_embeddings()


class _Trainer(Trainer):
    """Muon, the model's own loss, and the order of the records."""

    def _get_train_sampler(self, train_dataset=None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            rest = super().create_optimizer()
            self.optimizer = MuonWithRest(hidden_matrices(self.model), rest, 7.5 * self.args.learning_rate, 0.0)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(inputs["rows"])["loss"]


def lessons(mixed: list[Record], batch_size: int) -> list[Record]:
    """What is learned in which order: as many records as `mixed` has, about the same scenes."""
    return [_lesson(i // batch_size, i, row) for i, row in enumerate(mixed)]


def _lesson(step: int, index: int, mixed: Record) -> Record:
    """The record for a place in a step: a list, a drill or the mixture's own."""
    if mixed.image is None:
        return mixed
    scene = make_scene(int(mixed.image.stem))
    rng = random.Random(f"lesson {scene.seed}")
    if step < LISTS:
        # A few of the others, so that they are not strange when their turn comes.
        return mixed if index % 6 == 0 else _about(scene, mixed, list_turns(scene, rng))
    drill = (step - LISTS - FIRST_MIX) // DRILL
    if 0 <= drill < len(DRILLS) and index % 2:
        return _about(scene, mixed, drill_turns(scene, rng, drill))
    return mixed


def _about(scene: Scene, mixed: Record, turns: Turns) -> Record:
    messages = record(scene, turns)["conversations"]
    texts = [message["value"] for message in messages]
    return Record(mixed.name, mixed.image, tuple(zip(texts[::2], texts[1::2])))


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that scripts.tiny.data wrote")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    args = parser.parse_args()
    mixed = read_records(args.data / "finetune.json", args.data / "images", TEMPLATE)
    records = lessons(mixed[: STEPS * args.batch_size], args.batch_size)
    tokenizer = make_tokenizer(mixed[: len(mixed) // 3], args.output)
    settings = TrainingArguments(
        output_dir=str(args.output / "training"),
        per_device_train_batch_size=args.batch_size,
        max_steps=STEPS,
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=25,
        weight_decay=0,
        adam_beta2=0.98,
        bf16=True,
        use_cpu=not torch.accelerator.is_available(),  # or else transformers refuses bf16
        remove_unused_columns=False,
        logging_steps=10,
        save_steps=50,
        save_total_limit=1,
        dataloader_num_workers=1,
        report_to="none",
    )
    model = make_llama(len(tokenizer))
    trainer = _Trainer(
        model=_Blind(model),
        args=settings,
        train_dataset=Conversations(records, tokenizer),
        data_collator=lambda rows: {"rows": rows},
    )
    folder = args.output / "training"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.exists() else None)
    model.float().save_pretrained(args.output)


if __name__ == "__main__":
    run_command(main)
