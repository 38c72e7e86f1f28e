"""Tokenizers: token ids exactly as the checkpoint was trained with."""

import json
from pathlib import Path
from typing import ClassVar

import torch
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from llava.checkpoints.hf.config import is_hf_folder
from llava.checkpoints.schemas import TokenizerFile, read_checked
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.errors import InputError, one_line
from llava.files import read_json_object

SPIECE_UNDERLINE = "▁"

# A serialized sentencepiece ModelProto that holds nothing but normalizer_spec { add_dummy_prefix: false }. Protocol
# buffers merge when they are concatenated, so appending this to a model switches its automatic leading space off.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class LlamaSentencePieceTokenizer(SentencePieceBackend):
    """The Llama tokenizer over sentencepiece itself.

    transformers 5 rebuilds `tokenizer.model` in another library, and the ids come out different: no leading space,
    or other pieces where two spaces meet. This one gives the ids of the tokenizer the checkpoints were trained with
    (transformers 4.37, `use_fast=False`), in both of its modes: a checkpoint whose `tokenizer_config.json` says
    `legacy: false` has a leading space in front of the whole text alone, any other in front of every stretch of text
    between special tokens.
    """

    model_input_names: ClassVar = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token=None,
        add_bos_token: bool = True,
        add_eos_token: bool = False,
        legacy: bool | None = None,
        **kwargs,
    ):
        self.add_bos_token, self.add_eos_token = add_bos_token, add_eos_token
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        super().__init__(
            vocab_file=vocab_file,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            legacy=True,  # the base class then leaves the sentencepiece model as it is, and needs no protobuf
            **kwargs,
        )
        self.legacy = legacy is None or legacy
        self.init_kwargs.update(legacy=self.legacy, add_bos_token=add_bos_token, add_eos_token=add_eos_token)
        if not self.legacy:
            proto = self.sp_model.serialized_model_proto() + _NO_DUMMY_PREFIX
            self.sp_model = SentencePieceProcessor(model_proto=proto, **self.sp_model_kwargs)

    def tokenize(self, text: str, **kwargs) -> list[str]:
        """Pieces of a text; special tokens in it stay whole."""
        if self.legacy or not text:
            return super().tokenize(text, **kwargs)
        pieces = super().tokenize(SPIECE_UNDERLINE + text.replace(SPIECE_UNDERLINE, " "), **kwargs)
        if len(pieces) > 1 and pieces[0] == SPIECE_UNDERLINE and pieces[1] in self.all_special_tokens:
            return pieces[1:]
        return pieces

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        return self.sp_model.encode(text, out_type=str)

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None):
        """Put BOS before and EOS after each sequence, where the checkpoint's settings say so."""
        bos = [self.bos_token_id] if self.add_bos_token else []
        eos = [self.eos_token_id] if self.add_eos_token else []
        second = bos + token_ids_1 + eos if token_ids_1 is not None else []
        return bos + token_ids_0 + eos + second

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> tuple[str, ...]:
        """Write the tokenizer's files as the published checkpoints have them, for `LlamaTokenizer`."""
        files = super().save_pretrained(save_directory, **kwargs)
        path = Path(save_directory) / "tokenizer_config.json"
        settings = read_json_object(path, "tokenizer config")
        for name in ("backend", "is_local", "local_files_only"):
            settings.pop(name, None)
        settings |= {"add_bos_token": self.add_bos_token, "add_eos_token": self.add_eos_token}
        settings["tokenizer_class"] = "LlamaTokenizer"
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        special = path.with_name("special_tokens_map.json")
        special.write_text(json.dumps(self.special_tokens_map, indent=2) + "\n", encoding="utf-8")
        return (*files, str(special))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of some pieces; the leading space that encoding added is taken off."""
        if tokens and tokens[0].startswith(SPIECE_UNDERLINE):
            tokens = [tokens[0][1:], *tokens[1:]]
        special = set(self.all_special_tokens)
        text, plain = "", []
        for token in tokens:
            if token in special:
                text += self._decode_pieces(plain) + token
                plain = []
            else:
                plain.append(token)
        return text + self._decode_pieces(plain)

    def _decode_pieces(self, pieces: list[str]) -> str:
        return self.sp_model.decode(pieces) if pieces else ""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint folder: of its `tokenizer.model` (Llama, Mistral), else transformers' choice.

    In transformers' own layout the `tokenizer.json` goes first, as for AutoProcessor, whose ids `tokenizer_image_token`
    then gives. Raises InputError, naming the folder, if it has no tokenizer or one that cannot be read.
    """
    settings = folder / "tokenizer_config.json"
    if settings.exists():
        read_checked(settings, "tokenizer config", TokenizerFile)
    is_hf = is_hf_folder(folder)
    is_fast = (is_hf and (folder / "tokenizer.json").exists()) or not (folder / "tokenizer.model").exists()
    try:
        tokenizer = (AutoTokenizer if is_fast else LlamaSentencePieceTokenizer).from_pretrained(folder)
    except Exception as error:  # whatever another library makes of a damaged file
        raise InputError(f"cannot load a tokenizer from {folder}: {one_line(error)}") from error
    tokenizer.cuts_at_images = is_hf and is_fast and DEFAULT_IMAGE_TOKEN in tokenizer.get_vocab()
    return tokenizer


def tokenizer_image_token(
    prompt: str, tokenizer, image_token_index: int = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> list[int] | torch.LongTensor:
    """Token ids of a prompt, with `image_token_index` for each `<image>` and one BOS at the front.

    The texts between images are tokenized one by one, as LLaVA does it, or by a tokenizer in transformers' own layout
    (`load_tokenizer`) together with the images, as transformers' processors do it. The two may differ by the space
    after an image. Returns a list, or with `return_tensors="pt"` a (length,) int64 tensor.
    """
    # Not verbose: the model checks the length, and against its context rather than the tokenizer's setting.
    is_whole = getattr(tokenizer, "cuts_at_images", False)
    texts = [prompt] if is_whole else prompt.split(DEFAULT_IMAGE_TOKEN)
    chunks = [tokenizer(text, verbose=False).input_ids for text in texts]
    has_bos = bool(chunks[0]) and chunks[0][0] == tokenizer.bos_token_id
    if has_bos and chunks[0][1:2] == chunks[0][:1]:  # a template that writes BOS into the text
        chunks[0] = chunks[0][1:]
    ids = chunks[0][:1] if has_bos else []
    for i, chunk in enumerate(chunks):
        ids += ([image_token_index] if i else []) + chunk[has_bos:]
    if is_whole:
        image = tokenizer.convert_tokens_to_ids(DEFAULT_IMAGE_TOKEN)
        ids = [image_token_index if number == image else number for number in ids]
    if return_tensors is None:
        return ids
    if return_tensors != "pt":
        raise ValueError(f"unsupported tensor type {return_tensors!r}: only 'pt'")
    return torch.tensor(ids, dtype=torch.long)
