"""What the page does, whatever shows it: encode pictures, draw what is kept of them, answer questions."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llava.errors import InputError
from llava.pruning import PruningError, Settings, method_label
from llava.pruning.method import METHOD_NAMES, NONE
from llava.pruning.settings import CROP, IMAGE
from llava.serve.page import drawing
from llava.serve.page.selection_view import why_not_drawn
from llava.serve.page.transcript import Answer, Exchange, Figures, figures_html, transcript_html
from llava.serve.page.visitors import Visitor, Visitors
from llava.serve.queue import Queue
from llava.serve.texts import refuse_endless
from llava.vision.pictures import check_pixels, read_picture

if TYPE_CHECKING:
    from llava.model.encode import Encoded
    from llava.serve.page.local_model import LocalModel
    from llava.serve.page.vllm_server import VllmServer

MOST_SHOWN, MOST_THUMBNAIL = 768, 96  # pixels along a side of the picture beside what is kept, and of a small one
PATCHES = 576  # of a crop of the published checkpoints, where neither a model nor a server says
NO_PICTURE = "There is no picture yet: upload one, paste one or choose one."
NO_MODEL = "The answers come from a server. To see the patches here, start the page with --model-path too."
NOT_KNOWN = "The answers come from a server, and how it chooses patches is not known here."
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
        visitor.start_over()

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

    def draw_kept(self, key: str, pruning: Settings) -> str:
        """HTML of the picture with what is kept of it. Raises InputError if the method cannot work on the tower."""
        encoded, title = self.visitors.get(key).encoded, "Kept patches"
        if encoded is None:
            return drawing.empty_panel(title, NO_PICTURE if self.model is not None else NO_MODEL)
        if self.server is not None and self.server.pruning.method not in METHOD_NAMES:
            return drawing.empty_panel(title, NOT_KNOWN)
        kept = self.model.kept(encoded, pruning)
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
        return drawing.panel(title, "of each patch", drawn, legend)

    def transcript(self, key: str, waiting: str = "") -> Shown:
        """HTML of a visitor's conversation, with `waiting` below it, and of what the last answers took."""
        exchanges = self.visitors.get(key).exchanges
        answered = [exchange for exchange in exchanges if exchange.pruned.is_done]
        return transcript_html(exchanges, waiting), figures_html(answered[-1] if answered else None)

    def stop(self, key: str) -> None:
        """Take back what a visitor has asked and has no answer to yet."""
        visitor = self.visitors.get(key)
        for exchange in visitor.exchanges:
            exchange.unpruned.is_asked &= exchange.unpruned.is_done
        visitor.exchanges = [exchange for exchange in visitor.exchanges if exchange.pruned.is_done]

    def ask(self, key: str, question: str, pruning: Settings, compare: bool) -> Iterator[Shown]:
        """Answer a question, with `compare` without pruning too: what `transcript` returns, again and again.

        Raises InputError if it cannot be answered. On error, or if the generator is closed early, the conversation is
        unchanged.
        """
        visitor = self.visitors.get(key)
        if visitor.chat is None:
            raise InputError(NO_PICTURE)
        if not question.strip():
            raise InputError("The question is empty: write one.")
        if self.model is not None:
            refuse_endless(question, self.model.engine.tokenizer, self.model.loaded.context_len)
        if self.server is not None:  # it answers many at once, and has a queue of its own
            yield from self._answer(key, visitor, question.strip(), pruning, compare)
            return
        with self.queue.enter() as place:
            while not place.wait(0.5):
                yield self.transcript(key, f"Waiting: {place.before} before you.")
            yield from self._answer(key, visitor, question.strip(), pruning, compare)
            self.visitors.limit_caches()

    def queue_state(self) -> str:
        """How long the queue is, in words."""
        if self.server is not None:
            return "Queue: the server's"
        length = len(self.queue)
        return f"Queue: {length - 1} waiting, 1 answering" if length else "Queue: empty"

    def _answer(self, key: str, visitor: Visitor, question: str, pruning: Settings, compare: bool) -> Iterator[Shown]:
        """Add the exchange to the conversation and fill it in; one that has no answer in the end is taken out again."""
        chat, encoded = visitor.chat, visitor.encoded
        every = f"all {self.patches} tokens"
        exchange = Exchange(question, Answer(self._label(pruning)), Answer(every, is_asked=False))
        visitor.exchanges = [*visitor.exchanges, exchange]
        try:
            yield from self._fill(key, exchange, exchange.pruned, chat.stream(question, pruning), encoded, pruning)
        finally:
            if not exchange.pruned.is_done:
                visitor.exchanges = [other for other in visitor.exchanges if other is not exchange]
        if not exchange.pruned.is_done:  # it was stopped
            return
        exchange.unpruned.figures = chat.unpruned_figures()
        if compare and self.takes_settings:
            exchange.unpruned.is_asked = True
            whole = replace(pruning, visual_token_num=self.patches, pruning_method=NONE)
            try:
                yield from self._fill(key, exchange, exchange.unpruned, chat.stream_unpruned(question), encoded, whole)
            except InputError as error:
                exchange.unpruned.text = f"This cannot be answered without pruning: {error}."
            finally:
                exchange.unpruned.is_done = True
        yield self.transcript(key)

    def _fill(
        self,
        key: str,
        exchange: Exchange,
        answer: Answer,
        pieces: Generator[str, None, tuple[str, Figures]],
        encoded: Encoded | None,
        pruning: Settings,
    ) -> Iterator[Shown]:
        """Add the pieces of an exchange's answer as they come, and in the end what it took, unless it is stopped."""
        with closing(pieces):
            yield self.transcript(key)
            while answer.is_asked and any(other is exchange for other in self.visitors.get(key).exchanges):
                try:
                    answer.text += next(pieces)
                except StopIteration as end:
                    answer.text, figures = end.value
                    break
                yield self.transcript(key)
            else:
                return
        is_counted = self.server is not None and self.server.pruning.is_known and figures.prompt_tokens is not None
        if is_counted and encoded is not None:
            visual = self.model.count_visual_tokens(encoded, pruning)
            figures = replace(figures, **self.model.arithmetic(figures.prompt_tokens, visual, pruning))
        answer.figures, answer.is_done = figures, True

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
