"""`Session`: a conversation that keeps its KV cache, so that neither a picture nor the history is computed again."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from typing import NamedTuple

import torch
from transformers import Cache, DynamicCache

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, question_in, without_pictures
from llava.errors import InputError
from llava.inference.generation import one_text_options
from llava.inference.images import Decoded, choose_tokens, decode_image, encode_images
from llava.inference.memory import refuse_too_large
from llava.inference.prefix_sharing import embed
from llava.inference.request import mark_images
from llava.inference.streaming import stream_text, uses_beams
from llava.model.builder import LoadedModel, as_loaded
from llava.model.encode import Encoded
from llava.model.splice import EmbeddedPrompts, PlacedTokens
from llava.model.template import Template
from llava.pruning import Settings
from llava.pruning.kv_cache import cached_length


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        prompt: the whole conversation up to this answer, as text.
        text: the answer, without space around it.
        num_visual_tokens: how many visual tokens each image of the conversation has.
        prompt_tokens: tokens of the prompt, visual tokens included.
        computed_tokens: how many of them were not in the KV cache.
        answer_tokens: tokens of the answer, the one that ended it included.
    """

    prompt: str
    text: str
    num_visual_tokens: tuple[int, ...]
    prompt_tokens: int
    computed_tokens: int
    answer_tokens: int


class _Image(NamedTuple):
    """An image of the conversation, what was asked with it, and its visual tokens (length, D).

    It is not encoded as long as the settings show none.
    """

    source: Encoded | Decoded
    question: str
    tokens: torch.Tensor | PlacedTokens


@dataclass
class _Pending:
    """A turn that has no answer yet.

    `tokens` has one number for each token of the prompt with its images in place: the id of text, and for the visual
    tokens of an image a negative number that no other image of the session has.
    """

    conversation: Conversation
    prompt: str
    images: dict[int, _Image]
    prompts: EmbeddedPrompts
    tokens: list[int]
    computed: int = 0


class Session:
    """A conversation with a model, with any number of images.

    Each turn, the KV cache is cut back to what it has in common with the new prompt, and only the rest is computed.
    Greedy answers in float32 are those to the whole conversation asked at once. The history is computed again, but
    never an image, with beams, with `compile`, with methods that prune inside the decoder, and where a
    sliding window has dropped what would be needed. A method that chooses by the question goes by the message that the
    image came with; what it keeps stays for those that follow. One call at a time: a session is not for several
    threads.

    Attributes:
        template: how it becomes a prompt.
        conversation: the turns so far.
        pruning: the settings of all turns.
        last: the last turn; None before the first.
    """

    def __init__(
        self, loaded: LoadedModel, conv_mode: str | Template | None = None, pruning: Settings | None = None
    ) -> None:
        """
        Args:
            loaded: what `load_pretrained_model` returned.
            conv_mode: the prompt template; that of the checkpoint's published figures if None.
            pruning: the settings of all turns; those that the model has now if None.
        """
        self._loaded = loaded = as_loaded(loaded)
        self._tokenizer, self._model = loaded.tokenizer, loaded.model
        self.template = loaded.find_template(conv_mode) if conv_mode else loaded.template
        self.conversation = self.template.conversation()
        self.pruning = pruning or self._model.pruning
        self.last: Turn | None = None
        self._images: dict[int, _Image] = {}  # in the order of the conversation
        self._numbers = count(IMAGE_TOKEN_INDEX, -1)
        self._cache: Cache | None = None
        self._cached: list[int] = []  # the tokens whose keys and values are in the cache

    def fork(self, pruning: Settings) -> "Session":
        """A session that goes on from here with other settings, at first without a KV cache; this one stays as it is.

        No image is encoded again. Raises InputError if the method cannot work.
        """
        other = copy(self)
        other.pruning = pruning
        other.drop_cache()
        sources, asked = ([image[i] for image in self._images.values()] for i in (0, 1))
        other._images = self._choose(sources, asked, pruning)
        return other

    def drop_cache(self) -> None:
        """Free the KV cache; the next turn computes the history again."""
        self._cache, self._cached = None, []

    def _choose(self, images: Sequence, asked: list[str], pruning: Settings) -> dict[int, _Image]:
        """Images with their visual tokens, under numbers that no other of the session has."""
        if pruning.is_blind:
            sources = [
                image if isinstance(image, Encoded | Decoded) else decode_image(self._loaded, image, "the message")
                for image in images
            ]
            tokens = [self._model.model.embed_tokens.weight[:0]] * len(sources)
        else:
            sources = encode_images(self._loaded, images, "the message")
            tokens = choose_tokens(self._model, sources, pruning, asked)
        return {number: _Image(*image) for image, number in zip(zip(sources, asked, tokens), self._numbers)}

    def ask(self, message: str, images: Sequence = (), **options) -> str:
        """The answer to the next message.

        Args:
            message: what the user says; `<image>` in it marks where each image belongs (see `mark_images`).
            images: those that come with this message: PIL images, files or URLs, encoded images as bytes, or
                images that this model has `Encoded`.
            options: transformers' generation options, as `one_text_options` takes them.

        Raises InputError for an option that is not taken, if the images do not match, one cannot be read, or the
        conversation is longer than the context or takes too much memory. The session is then as it was before.
        """
        options = one_text_options(self._model, self._tokenizer, options)
        turn = self._begin(message, images)
        return self._end(turn, self._generate(turn, **options))

    def stream(self, message: str, images: Sequence = (), **options) -> Iterator[str]:
        """As `ask`, but the answer in pieces, as it is generated; with beams it is one piece.

        What is wrong with message or images shows before the first piece is asked for. The turn counts when the last
        piece has been taken: an answer that is left early is dropped.
        """
        options = one_text_options(self._model, self._tokenizer, options)
        return self._stream(self._begin(message, images), options)

    def _stream(self, turn: _Pending, options: dict) -> Iterator[str]:
        output_ids = yield from stream_text(self._tokenizer, partial(self._generate, turn), options)
        self._end(turn, output_ids)

    @torch.inference_mode()
    def _begin(self, message: str, images: Sequence) -> _Pending:
        """The next turn's prompt, embedded; nothing of the session changes."""
        if not message.strip() and not images:
            raise InputError("the message is empty")
        marked = mark_images(message, len(images), self._model.config)
        conversation = self.conversation.copy()
        conversation.append_message(conversation.roles[0], marked)
        conversation.append_message(conversation.roles[1], None)
        prompt, is_blind = conversation.get_prompt(), self.pruning.is_blind
        prompt = without_pictures(prompt) if is_blind else prompt
        ids = tokenizer_image_token(prompt, self._tokenizer, return_tensors="pt")
        every = self._images | self._choose(images, [question_in(message)] * len(images), self.pruning)
        shown = {} if is_blind else every
        prompts = embed(self._model, [ids], [image.tokens for image in shown.values()])
        self._model.check_context(prompts.furthest)
        ids[ids == IMAGE_TOKEN_INDEX] = torch.tensor(list(shown), dtype=ids.dtype)
        return _Pending(conversation, prompt, every, prompts, ids[prompts.source[0].cpu()].tolist())

    @torch.inference_mode()
    def _generate(self, turn: _Pending, **options) -> torch.LongTensor:
        """The ids (1, new) of the answer."""
        prompts, cache = turn.prompts, None
        if not (uses_beams(options) or self.pruning.prunes_in_decoder or self._model.records):
            cache, self._cache = self._reusable(turn.tokens), None  # none is left if generation ends with an error
            options["cache"] = cache
        turn.computed = prompts.longest - cached_length(cache)
        with refuse_too_large("the conversation"):
            output_ids = self._model.answer(prompts, self.pruning, **options)
        if cache is not None:
            self._cached = (turn.tokens + output_ids[0].tolist())[: cache.get_seq_length()]
            self._cache = cache
        return output_ids

    def _reusable(self, tokens: list[int]) -> Cache:
        """The session's cache, cut back to what it has in common with `tokens`; an empty one if it cannot be cut."""
        empty = DynamicCache(config=self._model.config)
        if self._cache is None:
            return empty
        # The last token is always computed: its logits give the first of the answer.
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._cached, tokens[:-1])))
        surplus = len(self._cached) - common
        if surplus:
            try:
                self._cache.crop(-surplus)
            except RuntimeError:  # a sliding window has dropped what would come into view again
                return empty
        return self._cache

    def _end(self, turn: _Pending, output_ids: torch.LongTensor) -> str:
        """Add the answer to the conversation."""
        text = self._tokenizer.batch_decode(output_ids, skip_special_tokens=True)[0].strip()
        # In the next prompt these letters would stand for one more image.
        turn.conversation.messages[-1][1] = text.replace(DEFAULT_IMAGE_TOKEN, "< image >")
        visual = tuple(len(image.tokens) for image in turn.images.values())
        self.conversation, self._images = turn.conversation, turn.images
        self.last = Turn(turn.prompt, text, visual, turn.prompts.longest, turn.computed, output_ids.shape[1])
        return text
