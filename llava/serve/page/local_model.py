"""A model in this process that answers the page's questions: pictures encoded once, conversations, costs."""

import time
from collections.abc import Generator
from contextlib import nullcontext, suppress
from dataclasses import replace
from statistics import median

import torch
from PIL import Image
from transformers import StoppingCriteria

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.conversation import Conversation
from llava.errors import InputError
from llava.inference import Engine, Session
from llava.inference.images import choose_tokens, encode_images
from llava.inference.memory import most_visual_tokens
from llava.model.builder import LoadedModel
from llava.model.encode import Encoded
from llava.model.flops import Decoder, tokens_later
from llava.pruning import Settings
from llava.pruning.method import NONE
from llava.serve.page.drawing import Sheet
from llava.serve.page.selection_view import Chosen, Kept, kept_patches, watching_decoder
from llava.serve.page.transcript import Figures
from llava.vision.grids import fitted_box, get_anyres_image_grid_shape, is_anyres

MOST_REPEATED = 0.25  # seconds to a first token that is measured twice more, while others wait


class TokenTimes(StoppingCriteria):
    """Stops nothing: it notes when each token of an answer was there. `seconds` are those of `time.perf_counter`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        self.seconds.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def figures(self, start: float) -> dict[str, float | None]:
        """Of an answer that was begun at `start`: the seconds to its first token, and its tokens per second then."""
        first, last = self.seconds[0], self.seconds[-1]
        further = len(self.seconds) - 1
        return {"first_token": first - start, "per_second": further / (last - first) if last > first else None}


class LocalModel:
    """A loaded model as the page knows it.

    Attributes:
        name: what it is called.
        engine: of the loaded model.
        template: the prompt template.
        patches: N of a crop.
    """

    def __init__(self, loaded: LoadedModel, name: str, conv_mode: str | None, options: dict) -> None:
        """
        Args:
            loaded: what `load_pretrained_model` returned.
            name: what it is called.
            conv_mode: the prompt template; that of the checkpoint's published figures if None.
            options: transformers' generation options to begin with.

        Raises InputError for an unknown template.
        """
        self.loaded, self.name, self.options = loaded, name, options
        self.model, self.engine = loaded.model, Engine(loaded)
        self.template = loaded.find_template(conv_mode) if conv_mode else loaded.template
        self.patches = self.model.get_vision_tower().num_patches

    def encode(self, image: Image.Image) -> Encoded:
        """Encode a picture. Raises InputError if that cannot be done."""
        return encode_images(self.loaded, [image], "your picture")[0]

    @property
    def cuts_crops(self) -> bool:
        """Whether a picture may be cut into crops."""
        return is_anyres(self.model.config.image_aspect_ratio)

    @property
    def most_tokens(self) -> int:
        """The visual tokens of a picture in as many crops as may be."""
        return most_visual_tokens(self.model, Settings())

    def kept(self, encoded: Encoded, pruning: Settings, asked: str = "") -> list[Kept] | None:
        """See `kept_patches`."""
        return kept_patches(self.model, encoded.views, pruning, asked)

    def sheet(self, encoded: Encoded) -> Sheet:
        """How the crops of a picture lie, and where it is padded."""
        tower, config, size = self.model.get_vision_tower(), self.model.config, encoded.size
        side, grid = tower.num_patches_per_side, ()
        if len(encoded.views.pixels) > 1:
            grid = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, tower.image_size)
            target, pixels = tuple(tower.image_size * crops for crops in grid), tower.image_size
        elif config.image_aspect_ratio == "pad":
            target, pixels = (max(size), max(size)), max(size)
        else:
            return Sheet(side)
        box = fitted_box(size, target)
        content = None if box == (0, 0, *target) else tuple(length * side / pixels for length in box)
        return Sheet(side, *grid, content=content)

    def count_visual_tokens(self, encoded: Encoded, pruning: Settings) -> int:
        """How many visual tokens a picture has with these settings."""
        return len(choose_tokens(self.model, [encoded], pruning)[0])

    def chat(self, encoded: Encoded) -> "LocalChat":
        """A conversation about a picture."""
        return LocalChat(self, encoded)

    def arithmetic(self, prompt_tokens: int, visual_tokens: int, pruning: Settings) -> dict[str, int]:
        """KV cache and FLOPs of a prompt as it enters the language model."""
        config = self.model.config
        decoder = Decoder.from_config(config)
        later, full_layers = tokens_later(pruning, prompt_tokens, visual_tokens, self.patches)
        window = getattr(config, "sliding_window", None) or prompt_tokens
        held = min(prompt_tokens, window), min(later, window)
        return {
            "visual_tokens": visual_tokens - (prompt_tokens - later),
            "kv_cache_bytes": decoder.cache_bytes(*held, full_layers, self.model.dtype.itemsize),
            "prefill_flops": decoder.prefill_flops(prompt_tokens, later, full_layers),
        }


class LocalChat:
    """A conversation about one picture; its settings may change from one question to the next.

    The picture is never encoded again, and while the settings stay, neither is the history computed again. Of the last
    question the unpruned answer can be had too, after the same history. One call at a time.

    Attributes:
        kept: the settings of the last question and what they kept of the picture, where that was chosen inside the
            language model.
    """

    def __init__(self, model: LocalModel, encoded: Encoded) -> None:
        self._model, self._encoded = model, encoded
        self._session: Session | None = None  # of the last question that was answered
        self._unpruned: Session | None = None
        self._history: Conversation | None = None  # before that question; None where it was the first
        self.kept: Chosen | None = None

    def stream(
        self, question: str, pruning: Settings, options: dict | None = None, again: bool = False
    ) -> Generator[str, None, tuple[str, Figures]]:
        """The answer piece by piece; returns all of it, and what it took.

        `options` are transformers' generation options, those to begin with if None. With `again` it takes the place of
        the last question and answer.
        Raises InputError; the conversation is then as it was.
        """
        history = self._session.conversation if self._session else None
        history = self._history if again else history
        watching = watching_decoder(self._model.model, self._encoded) if pruning.prunes_in_decoder else nullcontext([])
        with watching as found:
            session, figures = yield from self._ask(question, pruning, options, self._session, history)
        self._session, self._history = session, history
        self.kept = (pruning, found[0]) if found else None
        return session.last.text, figures

    def stream_unpruned(self, question: str, options: dict | None = None) -> Generator[str, None, tuple[str, Figures]]:
        """The answer to the last question without pruning, after the same history; otherwise as `stream`."""
        pruning = replace(self._session.pruning, visual_token_num=None, pruning_method=NONE)
        self._unpruned, figures = yield from self._ask(question, pruning, options, self._unpruned, self._history)
        return self._unpruned.last.text, figures

    def unpruned_figures(self) -> Figures:
        """What the last question would cost without pruning, by arithmetic."""
        pruning = replace(self._session.pruning, visual_token_num=None, pruning_method=NONE)
        asked, visual = self._session.conversation.copy(), self._model.count_visual_tokens(self._encoded, pruning)
        asked.messages[-1][1] = None  # the answer
        prompt = len(tokenizer_image_token(asked.get_prompt(), self._model.loaded.tokenizer)) - 1 + visual
        return Figures(prompt_tokens=prompt, **self._model.arithmetic(prompt, visual, pruning))

    def drop_cache(self) -> None:
        """Free what the conversation holds of the language model's memory; the next question computes it again."""
        for session in (self._session, self._unpruned):
            if session is not None:
                session.drop_cache()

    def _ask(
        self,
        question: str,
        pruning: Settings,
        options: dict | None,
        held: Session | None,
        history: Conversation | None,
    ) -> Generator[str, None, tuple[Session, Figures]]:
        """Ask in a session with these settings and this history: in `held`, if it has these settings."""
        start, times = time.perf_counter(), TokenTimes()
        images = []
        if history is None:
            session, images = Session(self._model.loaded, self._model.template, pruning), [self._encoded]
        elif held is not None and held.pruning == pruning:
            session = held
        else:
            session = self._session.fork(pruning)
        before = session.conversation
        if history is not None:
            session.conversation = history
        try:
            yield from session.stream(question, images, stopping_criteria=[times], **(options or self._model.options))
        except BaseException:
            session.conversation = before
            raise
        last, taken = session.last, times.figures(start)
        if history is None and taken["first_token"] < MOST_REPEATED:
            taken |= self._measured_again(question, pruning, options or self._model.options, taken["first_token"])
        figures = Figures(
            prompt_tokens=last.prompt_tokens,
            computed_tokens=last.computed_tokens,
            answer_tokens=last.answer_tokens,
            **self._model.arithmetic(last.prompt_tokens, sum(last.num_visual_tokens), pruning),
            **taken,
        )
        return session, figures

    def _measured_again(self, question: str, pruning: Settings, options: dict, first: float) -> dict[str, float]:
        """The figures of a first token that took `first` seconds and is measured twice more, if that can be done."""
        measured = [first]
        with suppress(InputError):  # beside the conversation that is held there may be no memory for another one
            for _ in range(2):
                start, times = time.perf_counter(), TokenTimes()
                fresh = Encoded(self._encoded.views, self._encoded.size, self._encoded.has_crops)  # nothing chosen yet
                session = Session(self._model.loaded, self._model.template, pruning)
                one = options | {"max_new_tokens": 1, "stopping_criteria": [times]}
                for _ in session.stream(question, [fresh], **one):
                    pass
                measured.append(times.seconds[0] - start)
        is_whole = len(measured) == 3
        return {"first_token": median(measured), "spread": max(measured) / min(measured)} if is_whole else {}
