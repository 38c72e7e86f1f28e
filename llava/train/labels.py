"""Conversations -> token ids and labels: only the answers contribute to the loss.

The whole prompt is tokenized at once, as in inference. Each token is then located in the text of the prompt, which
shows whether it belongs to an answer. A token that cannot be located, or that is partly answer, is an error, so that
labels are never silently shifted.
"""

import re

from transformers import PreTrainedTokenizerBase

from llava.checkpoints.tokenizer import SPIECE_UNDERLINE, LlamaSentencePieceTokenizer, tokenizer_image_token
from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import SeparatorStyle, get_conversation
from llava.errors import InputError

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def build_prompt(turns: tuple[tuple[str, str], ...], version: str) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation in the template `version`, and the positions of the answers in it.

    An answer includes the separator that ends it (`</s>` in v1) and the space before it. In a template without roles
    (`plain`, for stage 1) the text is the image, the caption and a line break, without the question, as in upstream.

    Returns: the text, and (start, end) of each answer in characters.
    Raises InputError for a template in which a later turn changes the text of an earlier one.
    """
    conversation = get_conversation(version)
    if conversation.sep_style is SeparatorStyle.PLAIN:
        text = DEFAULT_IMAGE_TOKEN + turns[0][1] + conversation.sep
        return text, [(len(DEFAULT_IMAGE_TOKEN), len(text))]
    spans, prompts = [], []
    for question, answer in turns:
        conversation.append_message(conversation.roles[0], question)
        conversation.append_message(conversation.roles[1], None)
        asked = conversation.get_prompt()
        conversation.messages[-1][1] = answer
        answered = conversation.get_prompt()
        spans.append((len(asked), len(answered)))
        prompts += [asked, answered]
    text = prompts[-1]
    if not all(text.startswith(prompt) for prompt in prompts):
        raise InputError(f"version {version!r} cannot be trained: a later turn changes the text of an earlier one")
    return text, spans


class PromptTokenizer:
    """Converts conversations to token ids and labels in one template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, version: str):
        """Raises InputError unless `tokenizer` is a sentencepiece tokenizer."""
        if not isinstance(tokenizer, LlamaSentencePieceTokenizer):
            raise InputError("training needs a language model with a sentencepiece tokenizer (tokenizer.model)")
        self.tokenizer, self.version = tokenizer, version
        self.special = set(tokenizer.all_special_ids)
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.bytes = {i: self._piece_bytes(i, piece) for i, piece in enumerate(pieces)}
        self.bytes[IMAGE_TOKEN_INDEX] = DEFAULT_IMAGE_TOKEN.encode()

    def _piece_bytes(self, token: int, piece: str) -> bytes:
        if byte := _BYTE_PIECE.fullmatch(piece):
            return bytes.fromhex(byte[1])
        return (piece if token in self.special else piece.replace(SPIECE_UNDERLINE, " ")).encode()

    def __call__(self, turns: tuple[tuple[str, str], ...], name: str) -> tuple[list[int], list[int]]:
        """The ids (-200 for the image) and the labels (-100 outside answers) of a conversation, of equal length.

        Raises InputError, naming the conversation `name`, if it is not known which tokens belong to answers.
        """
        text, spans = build_prompt(turns, self.version)
        ids = tokenizer_image_token(text, self.tokenizer)
        text = text.replace(SPIECE_UNDERLINE, " ")  # the tokenizer treats both alike
        positions = self._locate(text.encode(), ids)
        if positions is None:
            raise InputError(f"{name}: the tokenizer changes its text, so that the answers cannot be found in it")
        labels = [IGNORE_INDEX] * len(ids)
        spans = iter([(len(text[:start].encode()), len(text[:end].encode())) for start, end in spans])
        start, end = next(spans)
        for i, (first, last) in enumerate(positions):
            while first >= end:
                start, end = next(spans, (len(text) * 4 + 1, len(text) * 4 + 2))
            if first < start < last or first < end < last:
                raise InputError(f"{name}: token {i} of its prompt is only partly answer")
            if first >= start:
                labels[i] = ids[i]
        return ids, labels

    def _locate(self, data: bytes, ids: list[int]) -> list[tuple[int, int]] | None:
        """The (start, end) of each token in the text's UTF-8 bytes `data`; None if the tokens do not spell the text.

        The tokenizer may add a space at the start, after an image, and after a special token; the added space has
        length 0 in the text.
        """
        positions, position, may_add_space = [], 0, True
        for i, token in enumerate(ids):
            piece = self.bytes[token]
            if i == 0 and token == self.tokenizer.bos_token_id and self.tokenizer.add_bos_token:
                size = 0
            elif data.startswith(piece, position):
                size = len(piece)
            elif may_add_space and piece.startswith(b" ") and data.startswith(piece[1:], position):
                size, may_add_space = len(piece) - 1, False
            else:
                return None
            positions.append((position, position + size))
            position += size
            if token == IMAGE_TOKEN_INDEX or token in self.special:
                may_add_space = True
        return positions if position == len(data) else None
