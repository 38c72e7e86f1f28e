"""What a prompt asks about its images: the text that some pruning methods choose by.

The question about an image is the user's text of the turn that holds it, without the image's place and without what the
prompt template writes. It is the same however often the conversation goes on, so that the tokens kept of an image stay.
"""

import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import (
    AROUND_IMAGES,
    Conversation,
    SeparatorStyle,
    conv_templates,
    question_in,
    without_pictures,
)
from llava.errors import InputError
from llava.pruning import Settings, Views


def ids_without_pictures(ids: torch.LongTensor, tokenizer: PreTrainedTokenizerBase) -> torch.LongTensor:
    """The ids of a prompt (length,) less its images and the line break after each, as those of the text without them.

    The text on both sides of an image is tokenized anew, since a token may reach over where it was. Of ids that no text
    has, the image's alone leaves, with a token after it that is a line break.
    """
    whole = ids.tolist()
    bos = [tokenizer.bos_token_id] if whole[:1] == [tokenizer.bos_token_id] else []
    text = _text_of(whole[len(bos) :], tokenizer)

    def encode(text: str) -> list[int]:
        made = tokenizer_image_token(text, tokenizer)
        return made if bos or made[:1] != [tokenizer.bos_token_id] else made[1:]

    if encode(text) == whole:
        kept = encode(without_pictures(text))
    else:
        is_break = [before == IMAGE_TOKEN_INDEX and tokenizer.decode([own]) == "\n" for before, own in pairwise(whole)]
        kept = [own for own, gone in zip(whole, [False, *is_break]) if own != IMAGE_TOKEN_INDEX and not gone]
    return torch.tensor(kept, dtype=ids.dtype, device=ids.device)


def _text_of(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of ids, with `<image>` for each image."""
    chunks = [[]]
    for token in ids:
        if token == IMAGE_TOKEN_INDEX:
            chunks.append([])
        else:
            chunks[-1].append(token)
    decoded = (tokenizer.decode(chunk, clean_up_tokenization_spaces=False) for chunk in chunks)
    return DEFAULT_IMAGE_TOKEN.join(decoded)


def questions_of(ids: torch.LongTensor, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The question about each image of a prompt (length,) int64, which has -200 for each of them.

    A turn goes from one mark of a prompt template, any that is known, or special token to the next.
    """
    text = _text_of(ids.tolist(), tokenizer)
    special = {token for token in tokenizer.all_special_tokens if token not in AROUND_IMAGES}
    marks = sorted(_marks_of_templates() | special, key=len, reverse=True)
    turns = re.split("|".join(map(re.escape, marks)), text)
    return [question_in(turn) for turn in turns for _ in range(turn.count(DEFAULT_IMAGE_TOKEN))]


@cache
def _marks_of_templates() -> frozenset[str]:
    """What the templates write where a turn begins or ends."""
    return frozenset(mark.strip() for template in conv_templates.values() for mark in _marks(template))


def _marks(template: Conversation) -> list[str]:
    match template.sep_style:
        case SeparatorStyle.SINGLE:
            return [f"{template.sep}{role}:" for role in template.roles]
        case SeparatorStyle.TWO:
            return [f"{role}:" for role in template.roles]
        case SeparatorStyle.LLAMA_2:
            return ["[INST]", "[/INST]", "<</SYS>>"]
        case SeparatorStyle.LLAMA_3:
            return [template.sep, *(f"<|start_header_id|>{role}<|end_header_id|>" for role in template.roles)]
        case SeparatorStyle.PLAIN:
            return []
    return [template.sep, *template.roles]


class QuestionViews:
    """Mixin: what a model with image input gives a pruning method about the question.

    Attributes:
        load_tokenizer: gives the tokenizer where none was assigned; None where there is nothing to load it from.
    """

    load_tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None
    _tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The language model's tokenizer, set when the model is loaded."""
        if self._tokenizer is None:
            if self.load_tokenizer is None:
                raise InputError("the pruning method reads the prompt: assign the model's `tokenizer` first")
            self._tokenizer = self.load_tokenizer()
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def with_question(self, views: Views, pruning: Settings, question: str) -> Views:
        """The views of crops, with those of a question that the method needs."""
        tower = self.get_vision_tower()
        sources = {
            "question": question,
            "text_embeds": lambda: tower.text_side.embed_text(question, tower.device),
            "word_embeds": lambda: self.embed_words(question),
        }
        return views.with_question(**{name: sources[name] for name in pruning.question_views})

    @torch.no_grad()
    def embed_words(self, text: str) -> torch.Tensor:
        """(m, D): the language model's embeddings of a text's tokens."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        embed = self.model.embed_tokens
        return embed(torch.tensor(ids, dtype=torch.long, device=embed.weight.device))

    def read_questions(self, input_ids: torch.LongTensor, mask: torch.BoolTensor) -> list[str]:
        """The question about each image of prompts (B, length), by what `mask` (B, length) says is no padding."""
        return [text for ids, own in zip(input_ids, mask) for text in questions_of(ids[own], self.tokenizer)]

    def drop_pictures(
        self, input_ids: torch.LongTensor, mask: torch.BoolTensor
    ) -> tuple[torch.LongTensor, torch.BoolTensor]:
        """Prompts (B, length) and their mask, padded on the right, less their images: see `ids_without_pictures`."""
        rows = [ids_without_pictures(ids[own], self.tokenizer) for ids, own in zip(input_ids, mask)]
        masks = [torch.ones_like(row, dtype=torch.bool) for row in rows]
        return tuple(pad_sequence(part, batch_first=True) for part in (rows, masks))
