"""What the page does, whatever shows it: encode pictures, draw what is kept of them, answer questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llava.errors import InputError
from llava.inference.options import decoding
from llava.pruning import PruningError, Settings, method_label
from llava.pruning.method import METHOD_NAMES, NONE
from llava.pruning.settings import CROP, IMAGE
from llava.serve.page import drawing
from llava.serve.page.answering import Answering
from llava.serve.page.selection_view import why_not_drawn
from llava.serve.page.transcript import Answer, Column, Comparison, Exchange, figures_html, transcript_html
from llava.serve.page.visitors import Visitor, Visitors
from llava.serve.page.vllm_server import SETTINGS
from llava.serve.queue import Queue
from llava.serve.texts import refuse_endless
from llava.vision.pictures import check_pixels, read_picture

if TYPE_CHECKING:
    from llava.serve.page.local_model import LocalModel
    from llava.serve.page.selection_view import Chosen
    from llava.serve.page.vllm_server import VllmServer

MOST_SHOWN, MOST_THUMBNAIL = 768, 96  # pixels along a side of the picture beside what is kept, and of a small one
PATCHES = 576  # of a crop of the published checkpoints, where neither a model nor a server says
NO_PICTURE = "There is no picture yet: upload one, paste one or choose one."
NO_MODEL = "The answers come from a server. To see the patches here, start the page with --model-path too."
NOT_KNOWN = "The answers come from a server, and how it chooses patches is not known here."
AFTER = "After the answer beside it."
MOST_ANSWER = 1024  # tokens; more if the command says so
Shown = tuple[str, str]  # the conversation and the figures, as HTML


class Service:
    """The page's own side.

    Attributes:
        model: encodes pictures, and answers where there is no `server`; None where the server is alone.
        server: answers in place of the model; None where the model does.
        settings: the pruning settings that a visitor begins with.
        methods: the pruning methods that a visitor may choose.
        patches: N of a crop.
        queue: who asks the model.
        visitors: what is kept of whom; a visitor's key is that of the browser's session.
    """

    def __init__(self, model: LocalModel | None, server: VllmServer | None, settings: Settings) -> None:
        """`settings` are those to begin with; without a budget that is the server's, or a ninth, as 64 of 576.

        Raises InputError for settings that the server does not take, and for a server of another model.
        """
        self.model, self.server = model, server
        said = None if server is None else server.pruning
        self.patches = model.patches if model is not None else said.patches or PATCHES
        default = max(1, self.patches // 9)
        if said is not None:
            if said.is_known and said.patches != self.patches:
                raise InputError(f"--model-path has {self.patches} patches of a crop, the server {said.patches}")
            settings, default = said.begin_with(settings), self.patches
        number = min(settings.visual_token_num or default, self.patches)
        self.settings = replace(settings, visual_token_num=number)
        self.methods = tuple(dict.fromkeys([*METHOD_NAMES, settings.pruning_method]))
        self.queue, self.visitors = Queue(), Visitors()
        self._answering = Answering(
            model, server, self.patches, self.queue, answered=lambda: self.visitors.limit_caches()
        )

    @property
    def takes_settings(self) -> bool:
        """Whether a visitor may choose settings: a server may keep to its own."""
        return self.server is None or self.server.pruning.takes_settings

    def pruning(self, **values: object) -> Settings:
        """The settings that a visitor chose. Raises ValueError for any that are invalid, or not offered.

        A method is a file or a module that is imported: whoever visits must not name another one.
        """
        if not self.takes_settings:
            return self.settings
        if values["visual_token_num"] is None:
            raise InputError("T has no number: write one, or move the slider")
        if values["pruning_method"] not in self.methods:
            raise InputError("this pruning method is not offered here")
        return replace(self.settings, **values)

    def offers(self, name: str) -> bool:
        """Whether a visitor may choose this setting, with some method or model at least."""
        return self.server is None or (self.takes_settings and name in SETTINGS)

    @property
    def options(self) -> dict:
        """transformers' generation options that a visitor begins with."""
        return (self.model if self.server is None else self.server).options

    @property
    def most_answer(self) -> int:
        """The most tokens that a visitor may ask for in an answer."""
        return max(MOST_ANSWER, self.options["max_new_tokens"])

    def decoding(self, temperature: object, max_new_tokens: object) -> dict:
        """The generation options with what a visitor chose. Raises InputError for what is invalid."""
        if isinstance(temperature, bool) or not isinstance(temperature, int | float):
            raise InputError(f"temperature must be a number, got {temperature!r}")
        if type(max_new_tokens) is not int or not 1 <= max_new_tokens <= self.most_answer:
            raise InputError(
                f"max_new_tokens must be a whole number from 1 to {self.most_answer}, got {max_new_tokens!r}"
            )
        own = self.options
        return decoding(temperature, own.get("top_p"), own.get("num_beams", 1), max_new_tokens)

    def most_tokens(self, budget_per: str) -> int:
        """The largest budget that prunes nothing."""
        return self.model.most_tokens if budget_per == IMAGE and self.model is not None else self.patches

    def take_picture(self, key: str, file: Path, name: str) -> None:
        """Read and encode the picture that a visitor wants to talk about, and begin a conversation about it.

        `name` is what messages call it. Raises InputError if it cannot be read or is too large; the visitor's former
        picture then stays.
        """
        check_pixels([file], name)
        image = read_picture(file, name, as_displayed=True)
        visitor, encoded = self.visitors.get(key), None if self.model is None else self.model.encode(image)
        visitor.encoded, visitor.name = encoded, f"{name}, {image.width} × {image.height}"
        visitor.picture, visitor.thumbnail = (drawing.small_uri(image, most) for most in (MOST_SHOWN, MOST_THUMBNAIL))
        if self.server is not None:
            visitor.open_chat = partial(self.server.chat, image, self.patches)
        else:
            visitor.open_chat = partial(self.model.chat, encoded)
        visitor.leave()
        visitor.start_over()
        visitor.comparison, visitor.scene = None, ""

    def last_question(self, key: str) -> str:
        """The last question of a visitor's conversation that has an answer. Raises InputError if none has."""
        answered = [exchange.question for exchange in self.visitors.get(key).exchanges if exchange.pruned.is_done]
        if not answered:
            raise InputError("There is no answer yet to be made again.")
        return answered[-1]

    def draw_picture(self, key: str) -> str:
        """HTML of the picture itself, unpruned; empty where there is none."""
        visitor = self.visitors.get(key)
        if visitor.picture is None:
            return ""
        return drawing.panel("Picture", visitor.name, drawing.whole_picture(visitor.picture, "The picture, unpruned"))

    def draw_upload(self, key: str) -> str:
        """HTML of a visitor's picture as a thumbnail with its name."""
        visitor = self.visitors.get(key)
        return drawing.uploaded_picture(visitor.thumbnail, visitor.name)

    def picture_source(self, key: str) -> str:
        """HTML of the crops of a visitor's picture, which the drawings refer to; empty where there is none here."""
        encoded = self.visitors.get(key).encoded
        if encoded is None:
            return ""
        processor = self.model.loaded.image_processor
        pixels = encoded.views.pixels.float().cpu().numpy()
        crops = drawing.crop_images(pixels, processor.image_mean, processor.image_std)
        return drawing.picture_source(crops, self.model.sheet(encoded).side)

    def draw_column(self, key: str, column: int, pruning: Settings) -> str:
        """As `draw_kept`, for a column of the comparison, by the question that was compared last."""
        comparison = self.visitors.get(key).comparison
        if comparison is None:
            return self._draw_kept(key, pruning, "", None)
        answered = comparison.columns.get(column)
        return self._draw_kept(key, pruning, comparison.question, answered and answered.kept)

    def draw_kept(self, key: str, pruning: Settings) -> str:
        """HTML of the picture with what is kept of it. Raises InputError if the method cannot work on the tower.

        Methods that choose by the question go by the one with which the visitor's conversation began.
        """
        visitor = self.visitors.get(key)
        asked = visitor.exchanges[0].question if visitor.exchanges else ""
        return self._draw_kept(key, pruning, asked, visitor.chat and visitor.chat.kept)

    def _draw_kept(self, key: str, pruning: Settings, asked: str, known: Chosen | None) -> str:
        """`known` is what was kept for an answer, which holds for its own settings alone."""
        encoded, title = self.visitors.get(key).encoded, "Kept patches"
        if encoded is None:
            return drawing.empty_panel(title, NO_PICTURE if self.model is not None else NO_MODEL)
        if self.server is not None and self.server.pruning.method not in METHOD_NAMES:
            return drawing.empty_panel(title, NOT_KNOWN)
        is_known = known is not None and known[0] == pruning
        kept = known[1] if is_known else self.model.kept(encoded, pruning, asked)
        if kept is None:
            return drawing.empty_panel(title, why_not_drawn(pruning))
        sheet, counted = self.model.sheet(encoded), kept[:1] if pruning.budget_per == CROP else kept
        number = sum(len(crop.important) + len(crop.others) for crop in counted)
        whose = " of each crop" if pruning.budget_per == CROP else " of all crops together"
        words = f"{number} of {len(counted) * self.patches}" + (whose if sheet.crops > 1 else "")
        label = f"The picture with its kept patches, {words}, chosen by {method_label(pruning.pruning_method)}"
        names = "important", "diverse" if any(crop.important for crop in kept) else "kept"
        legend = drawing.kept_legend(counted, self.patches, names) + drawing.padding_legend(sheet)
        return drawing.panel(title, words, drawing.draw_kept(sheet, kept, label), legend)

    def draw_importance(self, key: str) -> str:
        """HTML of the picture under a heat map of its patches' importance; empty where there is no picture here."""
        encoded = self.visitors.get(key).encoded
        if encoded is None:
            return ""
        title = "[CLS] attention" if self.model.model.get_vision_tower().NAME == "CLIP" else "Attention received"
        try:
            importance = encoded.views.importance.float().cpu().numpy()
        except PruningError as error:
            return drawing.empty_panel(title, str(error))
        sheet, most = self.model.sheet(encoded), float(importance.max())
        drawn = drawing.draw_importance(sheet, importance, f"A heat map: {title} of each patch")
        legend = drawing.importance_legend(most) + drawing.padding_legend(sheet)
        return drawing.panel(title, "", drawn, legend)

    def transcript(self, key: str) -> Shown:
        """HTML of a visitor's conversation, and of what the last answers took."""
        exchanges = self.visitors.get(key).exchanges
        answered = [exchange for exchange in exchanges if exchange.pruned.is_done]
        return transcript_html(exchanges), figures_html(answered[-1] if answered else None)

    def stop(self, key: str) -> None:
        """Take back what a visitor has asked in the conversation and has no answer to yet."""
        self.visitors.get(key).stop()

    def ask(
        self,
        key: str,
        question: str,
        pruning: Settings,
        compare: bool,
        options: dict | None = None,
        again: bool = False,
    ) -> Iterator[Shown]:
        """Answer a question, with `compare` without pruning too: what `transcript` returns, again and again.

        `options` are those that `decoding` returns. With `again` the answers take the place of the last question's.
        Raises InputError if it cannot be answered. On error, or if the generator is closed early, the conversation is
        unchanged.
        """
        visitor = self._visitor_who_asks(key, question)
        if again:  # of one that has its answer
            visitor.stop()
        exchange = Exchange(
            question.strip(),
            Answer(self._label(pruning)),
            Answer(f"all {self.patches} tokens", is_asked=False),
        )
        compare = compare and self.takes_settings
        for _ in self._answering.exchange(visitor, exchange, pruning, options, compare, again):
            yield self.transcript(key)

    def compare(
        self, key: str, question: str, columns: dict[int, Settings], options: dict | None = None
    ) -> Iterator[Column]:
        """Answer a question with several settings, one after another, each as the first of a conversation of its own.

        Each answer has a turn of its own in the queue. Yields the column that has changed, again and again; all of them
        are the visitor's `comparison`. What one of them cannot do is its `error`, and the others go on.
        Raises InputError for a question that none can answer.
        """
        visitor = self._visitor_who_asks(key, question)
        if visitor.comparison is not None:
            visitor.comparison.stop()
        new = {i: Column(pruning, Answer(self._label(pruning), waiting=AFTER)) for i, pruning in columns.items()}
        visitor.comparison = Comparison(question.strip(), new)
        yield from new.values()
        try:
            yield from self._answering.columns(visitor, question.strip(), new.values(), options)
        finally:
            for column in new.values():
                column.answer.is_asked &= column.answer.is_done

    def _visitor_who_asks(self, key: str, question: str) -> Visitor:
        """The visitor with this key. Raises InputError where there is nothing to answer."""
        visitor = self.visitors.get(key)
        if visitor.chat is None:
            raise InputError(NO_PICTURE)
        if not question.strip():
            raise InputError("The question is empty: write one.")
        if self.model is not None:
            refuse_endless(question, self.model.engine.tokenizer, self.model.loaded.context_len)
        return visitor

    def queue_state(self) -> str:
        """How long the queue is, in words."""
        if self.server is not None:
            return "Queue: the server's"
        length = len(self.queue)
        return f"Queue: {length - 1} waiting, 1 answering" if length else "Queue: empty"

    def _label(self, pruning: Settings) -> str:
        """What an answer with these settings is called."""
        if self.server is not None and not self.server.pruning.is_known:
            return "as many tokens as the server keeps"
        if pruning.pruning_method == NONE:
            return f"all {self.patches} tokens, none pruned"
        if pruning.is_blind:
            return f"no picture, {method_label(pruning.pruning_method)}"
        how = "" if self.server is not None else f", {method_label(pruning.pruning_method)}"
        ratio = f" {pruning.important_ratio:g}" if pruning.method.reads_ratio and not self.server else ""
        most, whose = self.most_tokens(pruning.budget_per), "" if pruning.budget_per == CROP else " of all crops"
        number = f"{min(pruning.visual_token_num, most)}" + (f" of {most}" if pruning.budget_per == CROP else "")
        return f"{number} tokens{whose}{how}{ratio}"
