"""What a prompt asks about its pictures, for methods that choose by it.

It is what the caller says, or the user's text in the turn that holds the picture. That is read from the ids by the chat
template of the model's processor, and only where it is certain: where the template's marks are around the turn, and
all its words stand on one side of its pictures. Words elsewhere may be the processor's.

Shapes: B prompts, L tokens of the longest, m tokens of a question, D model channels.
"""

import functools
import re
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile

import torch
from transformers import PreTrainedModel

from llava.errors import InputError
from llava.integrations.transformers.hosts.base import Host, Picture
from llava.integrations.transformers.processor import processor_of, tokenizer_of

READ = ("question", "word_embeds")  # what transformers' models have of a question
PASS = "pass question= to the call"
_WHY = "the pruning method chooses by the question"
_WORDS = ("firstquestion", "firstanswer", "secondquestion")
_PICTURE = "\0"

Question = str | list[str] | tuple[str, ...] | None
Kinds = list[tuple[int, list[Picture]]]  # for each placeholder's id its pictures


@dataclass(frozen=True)
class Asked:
    """The prompts that pictures are in.

    Attributes:
        ids: (B, L), of the whole conversation where it was given.
        mask: (B, L) bool, what is no padding.
        start: tokens of it that are in the cache, the places of earlier pictures among them.
    """

    ids: torch.LongTensor
    mask: torch.BoolTensor
    start: int = 0

    def is_own(self, token: int) -> torch.BoolTensor:
        """(B, L): where the placeholders `token` are that are not in the cache."""
        is_own = (self.ids == token) & self.mask
        is_own[:, : self.start] = False
        return is_own

    def places(self, token: int, pictures: list[Picture]) -> list[tuple[int, int]]:
        """The row and the column of the first placeholder of each picture."""
        places = self.is_own(token).nonzero().tolist()
        return [tuple(places[start]) for start in _starts(pictures)]


def check_question(question: Question) -> Question:
    """The question that a call is given. Raises InputError unless it is a text, a list of texts or None."""
    texts = [question] if isinstance(question, str) or question is None else question
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str | None) for text in texts):
        raise InputError(f"question must be a text, or a list with one for each picture, got {question!r:.80}")
    return question


def with_questions(
    model: PreTrainedModel,
    host: Host,
    pictures: Kinds,
    asked: Asked,
    question: Question,
    needs: tuple[str, ...],
) -> Kinds:
    """The pictures, whose views have those of the question, `needs`.

    Args:
        asked: the prompts that they are in.
        question: about all pictures, or one for each in the order of their places; None reads it from the ids.

    Raises InputError for another number of questions, and where a question cannot be read or embedded.
    """
    if isinstance(question, str):
        texts = {token: [question] * len(own) for token, own in pictures}
    elif question is not None:
        texts = _one_each(model, host, list(question), pictures, asked)
    else:
        reader = Reader(processor_of(model, _WHY), [token for token, _ in pictures], host.written)
        rows = [row[own].tolist() for row, own in zip(asked.ids, asked.mask)]
        before = (~asked.mask).long().cumsum(dim=1)  # padding up to each token
        texts = {
            token: [
                reader.question_at(rows[row], column - int(before[row, column]))
                for row, column in asked.places(token, own)
            ]
            for token, own in pictures
        }
    embed = functools.cache(lambda text: embed_words(model, text))  # pictures with one question share it

    def with_views(picture: Picture, text: str) -> Picture:
        sources = {"question": text, "word_embeds": lambda: embed(text)}
        return replace(picture, views=picture.views.with_question(**{name: sources[name] for name in needs}))

    return [(token, list(map(with_views, own, texts[token]))) for token, own in pictures]


def _one_each(
    model: PreTrainedModel, host: Host, questions: list[str], pictures: Kinds, asked: Asked
) -> dict[int, list[str]]:
    """The question about each picture, or crop that the host encodes as one, where each whole picture has one."""
    found, numbers = [], {}  # the place, kind and number of each whole picture; to which each crop belongs
    for token, own in pictures:
        try:
            wholes = host.whole_pictures(model, own, asked.ids, asked.is_own(token)) if own else []
        except InputError as error:
            raise InputError(
                "question: the prompt does not tell which crops are of one picture: give one text"
            ) from error
        found += [(place, token, i) for i, place in enumerate(asked.places(token, wholes))]
        ends = list(accumulate(len(whole.tokens) for whole in wholes))
        numbers[token] = [sum(end <= start for end in ends) for start in _starts(own)]
    if len(found) != len(questions):
        raise InputError(f"question: {len(questions)} of them for {len(found)} picture(s)")
    text = {(token, i): question for (_, token, i), question in zip(sorted(found), questions)}
    return {token: [text[token, i] for i in own] for token, own in numbers.items()}


def _starts(pictures: list[Picture]) -> list[int]:
    """The number of tokens before each picture."""
    return [end - len(own.tokens) for own, end in zip(pictures, accumulate(len(own.tokens) for own in pictures))]


@torch.no_grad()
def embed_words(model: PreTrainedModel, text: str) -> torch.Tensor:
    """(m, D): the language model's embeddings of a text's tokens."""
    ids = tokenizer_of(processor_of(model, _WHY))(text, add_special_tokens=False, verbose=False).input_ids
    embed = model.get_input_embeddings()
    return embed(torch.tensor(ids, dtype=torch.long, device=embed.weight.device))


@dataclass(frozen=True)
class Reader:
    """Reads the user's text from ids.

    Attributes:
        processor: with a chat template; or a tokenizer.
        placeholders: the ids of all kinds of pictures.
        written: a regular expression of words that the processor writes beside a picture; "" for none.
    """

    processor: object
    placeholders: list[int]
    written: str = ""

    def question_at(self, ids: list[int], column: int) -> str:
        """The user's text in the turn that holds the placeholder at `column` of a prompt without padding.

        Raises InputError where it is not certain.
        """
        opening, closing = self._marks
        text, place = self._text(ids, column)
        begin = max((match.end() for match in opening.finditer(text, 0, place)), default=None)
        end = next((match.start() for match in closing.finditer(text, place)), None)
        if begin is None or end is None or closing.search(text, begin, place) or opening.search(text, place, end):
            raise InputError(f"the prompt is not written as the chat template writes a user's turn: {PASS}")
        parts = [_PICTURE, *map(re.escape, self._added), *([self.written] if self.written else [])]
        words = [part.strip() for part in re.split("|".join(parts), text[begin:end]) if part.strip()]
        if len(words) > 1:
            raise InputError(f"words stand on several sides of a picture, and may not be the user's: {PASS}")
        return words[0] if words else ""

    def _text(self, ids: list[int], column: int) -> tuple[str, int]:
        """A prompt as text, with one character for each placeholder, and where that of `column` is."""
        decode = functools.partial(tokenizer_of(self.processor).decode, clean_up_tokenization_spaces=False)
        text, words, place = "", [], 0
        for i, token in enumerate([*ids, self.placeholders[0]]):
            if token not in self.placeholders:
                words.append(token)
                continue
            text += decode(words) if words else ""
            place, words = len(text) if i == column else place, []
            text += _PICTURE if i < len(ids) else ""
        return text, place

    @functools.cached_property
    def _added(self) -> list[str]:
        """Tokens that are no words, the longest first."""
        return sorted(tokenizer_of(self.processor).get_added_vocab(), key=len, reverse=True)

    @functools.cached_property
    def _marks(self) -> tuple[re.Pattern, re.Pattern]:
        """What stands before and after the user's text in every turn."""
        without, whole = self._between([]), self._between([{"role": "system", "content": "system"}])
        if without is None:
            raise InputError(f"the processor has no chat template that tells where a user's turn is: {PASS}")
        head, answer, again, tail = without
        opening = _common_end([head, again])
        if whole and (shorter := _common_end([head, again, whole[0]])).strip():
            opening = shorter
        closing = _common_start([answer, tail])
        token = re.compile("|".join(map(re.escape, self._added)) or "(?!)")
        starts = [opening[match.start() :].strip() for match in token.finditer(opening)]
        ends = [closing[: match.end()].strip() for match in token.finditer(closing)]
        opening = next((own for own in reversed(starts) if not tail.strip().endswith(own)), opening)
        closing = next((own for own in ends if not head.strip().startswith(own)), closing)
        if not opening.strip() or not closing.strip():
            raise InputError(f"the chat template does not mark where a user's turn begins and ends: {PASS}")
        return _loose(opening, token), _loose(closing, token)

    def _between(self, before: list[dict]) -> list[str] | None:
        """What a conversation of a question, an answer and a question has around them; None if that is not certain."""
        roles = ("user", "assistant", "user")
        for wrap in (lambda text: [{"type": "text", "text": text}], str):
            turns = [{"role": role, "content": wrap(text)} for role, text in zip(roles, _WORDS)]
            start = [{**turn, "content": wrap(turn["content"])} for turn in before]
            for source in (self.processor, tokenizer_of(self.processor)):
                try:
                    text = source.apply_chat_template([*start, *turns], tokenize=False, add_generation_prompt=True)
                except Exception:  # a template is a program that may raise anything
                    continue
                parts = re.split("|".join(_WORDS), text)
                if len(parts) == 4 and "'type'" not in text:
                    return parts
        return None


def _common_start(texts: list[str]) -> str:
    return "".join(first for first, *_ in takewhile(lambda own: len(set(own)) == 1, zip(*texts)))


def _common_end(texts: list[str]) -> str:
    return _common_start([text[::-1] for text in texts])[::-1]


def _loose(mark: str, token: re.Pattern) -> re.Pattern:
    """A mark, with any space or none between its words and tokens: a tokenizer may write others there."""
    words = token.sub(lambda match: f" {match.group()} ", mark).split()
    return re.compile(r"\s*".join(map(re.escape, words)))
