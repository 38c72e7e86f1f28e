"""A checkpoint's tokenizer for transformers' own LLaVA classes, with the same ids: files of llava-hf's kind.

Their processors split a prompt at `<image>` inside the tokenizer, LLaVA does before it. So `<image>` becomes a token
that cuts the text ahead of everything else, and each part gets the leading space that it has in LLaVA.
"""

import re
import shutil
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerBase

from llava.checkpoints.schemas import TokenizerFile, read_checked
from llava.checkpoints.tokenizer import SPIECE_UNDERLINE, LlamaSentencePieceTokenizer
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import InputError
from llava.files import read_json_object, write_json

PAD = "<pad>"
_OF_THE_PROCESSOR = ("extra_special_tokens", "image_token", "processor_class")
_KEPT_SETTINGS = ("add_bos_token", "add_eos_token", "bos_token", "eos_token", "unk_token", "legacy")


def image_and_pad(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of `<image>` and of the pad token, as `write_hf_tokenizer` gives them.

    A tokenizer that pads with its unknown token, or not at all, gets a `<pad>`, as the published ones have.
    """
    vocabulary = tokenizer.get_vocab()
    image = vocabulary.get(DEFAULT_IMAGE_TOKEN, len(tokenizer))
    if tokenizer.pad_token_id not in (None, tokenizer.unk_token_id):
        return image, tokenizer.pad_token_id
    return image, vocabulary.get(PAD, len(tokenizer) + (image == len(tokenizer)))


def write_hf_tokenizer(
    tokenizer: PreTrainedTokenizerBase, source: Path, target: Path, processor_class: str, context_len: int
) -> None:
    """Write the files of a tokenizer with `<image>` and a pad token of its own into the folder `target`.

    Args:
        tokenizer: of the checkpoint in the folder `source`, whose `tokenizer.model` is copied too.
        processor_class: the processor that the tokenizer is for.
        context_len: tokens that a prompt may have, those of images too.

    Raises InputError for a kind of tokenizer that cannot be written so.
    """
    image, pad = image_and_pad(tokenizer)
    written = _backend(tokenizer)
    names = {image: DEFAULT_IMAGE_TOKEN, pad: tokenizer.convert_ids_to_tokens(pad) if pad < len(tokenizer) else PAD}
    for number in sorted(names):
        written.add_special_tokens([AddedToken(names[number], normalized=False, special=True)])
        if written.token_to_id(names[number]) != number:
            raise InputError(f"the tokenizer in {source} gives {names[number]} another id than {number}")
    (target / "tokenizer.json").write_text(written.to_str(pretty=True), encoding="utf-8")
    if (source / "tokenizer.model").exists():
        shutil.copyfile(source / "tokenizer.model", target / "tokenizer.model")
    added = {
        str(number): {key: getattr(token, key) for key in ("content", "lstrip", "normalized", "rstrip", "single_word")}
        | {"special": token.special}
        for number, token in sorted(written.get_added_tokens_decoder().items())
    }
    settings = {key: getattr(tokenizer, key) for key in _KEPT_SETTINGS if getattr(tokenizer, key, None) is not None}
    settings |= {
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"image_token": DEFAULT_IMAGE_TOKEN},
        "image_token": DEFAULT_IMAGE_TOKEN,
        "model_max_length": context_len,
        "pad_token": names[pad],
        "padding_side": "left",
        "processor_class": processor_class,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(target / "tokenizer_config.json", settings)


def write_llava_tokenizer(source: Path, target: Path) -> None:
    """Write the tokenizer in the folder `source`, of transformers' layout, without its `<image>` and `<pad>`."""
    settings = read_checked(source / "tokenizer_config.json", "tokenizer config", TokenizerFile)
    added = settings.pop("added_tokens_decoder", None) or {}
    settings = {name: value for name, value in settings.items() if name not in _OF_THE_PROCESSOR}
    names = {DEFAULT_IMAGE_TOKEN}
    if _content(settings.get("pad_token")) == PAD:
        names.add(PAD)
        settings["pad_token"] = settings.get("unk_token")
    settings["added_tokens_decoder"] = {key: token for key, token in added.items() if token["content"] not in names}
    settings["padding_side"] = "right"
    if (source / "tokenizer.model").exists():
        shutil.copyfile(source / "tokenizer.model", target / "tokenizer.model")
        settings["tokenizer_class"] = "LlamaTokenizer"
    else:
        written = read_json_object(source / "tokenizer.json", "tokenizer")
        kept = [token for token in written.get("added_tokens", []) if token.get("content") not in names]
        write_json(target / "tokenizer.json", written | {"added_tokens": kept})
    write_json(target / "tokenizer_config.json", settings)
    special = {key: _content(settings.get(key)) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    write_json(target / "special_tokens_map.json", {key: token for key, token in special.items() if token})


def _content(token: str | dict | None) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A tokenizer as one of the library `tokenizers`. Raises InputError for one that has none."""
    if isinstance(tokenizer, LlamaSentencePieceTokenizer):
        return _from_sentencepiece(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError(f"a tokenizer of {type(tokenizer).__name__} cannot be written for transformers' own classes")
    return Tokenizer.from_str(backend.to_str())


def _from_sentencepiece(tokenizer: LlamaSentencePieceTokenizer) -> Tokenizer:
    """The Llama tokenizer with byte-pair merges in place of sentencepiece's scores, and the same ids."""
    pieces = tokenizer.sp_model
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    unknown = tokenizer.unk_token
    written = Tokenizer(
        models.BPE(vocabulary, _merges(pieces, vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    spaces = [normalizers.Prepend(SPIECE_UNDERLINE), normalizers.Replace(" ", SPIECE_UNDERLINE)]
    special = [tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token]
    if not tokenizer.legacy:  # a text that begins with a special token has no space in front of it
        start = Regex(rf"^{SPIECE_UNDERLINE}(?={'|'.join(map(re.escape, special))})")
        spaces.append(normalizers.Replace(start, ""))
    written.normalizer = normalizers.Sequence(spaces)
    # With `legacy: false` the leading space belongs to the whole text: special tokens cut it after that is there.
    written.add_special_tokens(
        [AddedToken(token, normalized=not tokenizer.legacy, special=True) for token in dict.fromkeys(special)]
    )
    written.decoder = decoders.Sequence(
        [decoders.Replace(SPIECE_UNDERLINE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bos = f"{tokenizer.bos_token}:0 " if tokenizer.add_bos_token else ""
    eos = f" {tokenizer.eos_token}:0" if tokenizer.add_eos_token else ""
    written.post_processor = processors.TemplateProcessing(
        single=f"{bos}$A:0{eos}",
        pair=f"{bos}$A:0{eos} {bos}$B:0{eos}",
        special_tokens=[(token, vocabulary[token]) for token in (tokenizer.bos_token, tokenizer.eos_token)],
    )
    return written


def _merges(pieces: SentencePieceProcessor, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, those that sentencepiece prefers first."""
    made = [
        piece
        for piece, i in vocabulary.items()
        if not (pieces.is_byte(i) or pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_unused(i))
    ]
    merges = []
    for piece in made:
        score = pieces.get_score(vocabulary[piece])
        for cut in range(1, len(piece)):
            left, right = vocabulary.get(piece[:cut]), vocabulary.get(piece[cut:])
            if left is not None and right is not None:
                merges.append((-score, left, right, piece[:cut], piece[cut:]))
    return [(left, right) for *_, left, right in sorted(merges)]
