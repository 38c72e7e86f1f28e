"""The tiny language model before training: its tokenizer and its weights."""

import io
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer
from transformers import LlamaConfig, LlamaForCausalLM

from llava.checkpoints.tokenizer import LlamaSentencePieceTokenizer
from llava.train.labels import build_prompt
from llava.train.records import Record

WIDTH, LAYERS, HEADS, CONTEXT = 192, 6, 6, 2048
VOCABULARY = 1400
TEMPLATE = "v1"


def make_tokenizer(records: list[Record], folder: Path) -> LlamaSentencePieceTokenizer:
    """A sentencepiece BPE tokenizer with byte fallback and ids 0, 1, 2 = unk, bos, eos, saved as Vicuna's is."""
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

    The embeddings start large and nearly orthogonal, and the output layer starts as a scaled copy of them. So it takes
    little to find a word among the patches and to say it, and most questions ask for that. When both start small and
    independent, training takes more than three times as many steps.
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
