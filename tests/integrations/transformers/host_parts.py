"""What the configs of tiny models have in common, and what a picture of a prompt is."""

from dataclasses import dataclass, field

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, START, IMAGE, VIDEO, OPEN, CLOSE = 0, 1, 100, 101, 102, 103
TEXT = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": PAD, "bos_token_id": START,
        "eos_token_id": None, "tie_word_embeddings": False}  # fmt: skip
LLAMA, QWEN2 = ({**TEXT, "model_type": name} for name in ("llama", "qwen2"))
CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 56, "patch_size": 14, "model_type": "clip_vision_model"}  # fmt: skip
SIGLIP = {**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO}
INDICES = {"image_token_index": IMAGE, "video_token_index": VIDEO}
QWEN_TOKENS = {**TOKENS, "vision_start_token_id": OPEN, "vision_end_token_id": CLOSE}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}


@dataclass(frozen=True)
class Sample:
    """The arguments that one prompt's pictures are, and the placeholders of each picture in turn."""

    inputs: dict = field(default_factory=dict)
    pictures: tuple[list[int], ...] = ()


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def tokenizer_with_spaces(image: str, opening: str, closing: str, words: str, **names: str) -> PreTrainedTokenizerFast:
    """Of some words, which are tokens 2, 3, ..., and of the white space between them."""
    words = ["<unk>", " ", "\n", "\n\n", "\n\n\n\n", *dict.fromkeys(words.split())]
    specials = {"<pad>": PAD, "<s>": START, image: IMAGE, opening: OPEN, closing: CLOSE}
    vocabulary = {word: 2 + i for i, word in enumerate(words)} | specials
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+|[^\S\n]|\S+"), "isolated")
    made.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", unk_token="<unk>", padding_side="left",
        extra_special_tokens={**names, "image_token": image},
    )  # fmt: skip
    made.add_tokens(list(specials), special_tokens=True)
    return made
