"""The page's conversation in Gradio: the drawings, what was asked and answered, what it took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gradio as gr

from llava.errors import InputError
from llava.pruning import PruningError
from llava.serve.page.controls import (
    IMMEDIATE,
    KEEP,
    QUEUED,
    chosen_settings,
    example_buttons,
    no_event,
    notice_of_error,
    notice_of_text,
    plain_html,
)
from llava.serve.page.drawing import empty_panel
from llava.serve.page.links import query_of
from llava.serve.page.service import Service


class Conversation:
    """Its components as attributes, and a method for each thing that happens."""

    def __init__(
        self,
        service: Service,
        settings: dict[str, gr.components.Component],
        answering: Sequence[gr.components.Component],
        settings_notice: gr.HTML,
    ) -> None:
        """`settings` and `answering` are the controls that say how it is answered; errors of theirs go beside them."""
        self.service, self.settings, self.answering = service, list(settings.values()), answering
        self.settings_notice = settings_notice
        with gr.Row(elem_id="drawings"):
            self.picture = plain_html(elem_id="picture")
            self.kept = plain_html(elem_id="kept")
            heat_is_shown = self.service.model is not None
            self.heat = plain_html(elem_id="heat", visible=heat_is_shown)
        self.transcript = plain_html(elem_id="talk")
        self.notice = notice_of_text("notice", "question")
        with gr.Row(elem_id="asking", elem_classes="asking"):
            self.question = gr.Textbox(
                placeholder="Ask about the picture", show_label=False, container=False, scale=5, elem_id="question"
            )
            self.ask = gr.Button("Ask", variant="primary", scale=1, min_width=80, elem_id="ask")
        with gr.Row(elem_id="more"):
            self.compare = gr.Checkbox(
                label="Answer without pruning too",
                container=False,
                elem_id="compare",
                visible=self.service.takes_settings,
            )
            self.stop = gr.Button("Stop", size="sm", min_width=60, elem_id="stop")
            self.again = gr.Button("Regenerate", size="sm", min_width=60, elem_id="again")
            self.anew = gr.Button("New conversation", size="sm", min_width=60, elem_id="anew")
            self.link = gr.Button("Copy link", size="sm", min_width=60, elem_id="link")
        self.query = gr.Textbox(visible=False)
        self.examples = example_buttons()
        self.figures = plain_html(elem_id="figures")

    @property
    def shown(self) -> list[gr.components.Component]:
        """What `show` fills in."""
        return [self.transcript, self.figures, self.notice]

    @property
    def drawings(self) -> list[gr.components.Component]:
        """The picture itself, what is kept of it, and the importance of its patches."""
        return [self.picture, self.kept, self.heat]

    def connect_asking(self) -> list[gr.events.Dependency]:
        """Connect what asks. Returns what others cancel."""
        how = [self.compare, *self.answering, *self.settings]
        answer = {"concurrency_limit": None, "preprocess": False, **QUEUED}
        changed = [*self.shown, self.kept, self.settings_notice]
        asked = gr.on(
            [self.ask.click, self.question.submit],
            self._ask,
            [self.question, *how],
            [*changed, self.question],
            **answer,
        )
        return [asked, self.again.click(self._ask_again, how, changed, **answer)]

    def connect(self, asked: Sequence[gr.events.Dependency]) -> None:
        """Connect the rest; `asked` is what `connect_asking` has returned."""
        immediate, drawn = {"preprocess": False, **IMMEDIATE}, [self.kept, self.settings_notice]
        gr.on(
            [part.change for part in self.settings],  # `input` does not tell of a number that Gradio bounds
            self._draw,
            self.settings,
            drawn,
            trigger_mode="always_last",
            **immediate,
        )
        for button, then in ((self.stop, self._stop), (self.anew, self._start_over)):
            ended = button.click(then, None, self.shown, cancels=asked, **IMMEDIATE)
            ended.then(self._draw, self.settings, drawn, **immediate)
        self.link.click(
            self._link, [*self.answering, *self.settings], [self.query, self.settings_notice], **immediate
        ).then(None, self.query, None, js="query => window.llavaLink(query)")

    def show(self, request: gr.Request) -> tuple:
        """Conversation, figures and no notice."""
        return *self.service.transcript(request.session_hash), ""

    def draw_all(self, request: gr.Request, *chosen: object) -> tuple:
        """The crops that drawings refer to, the drawings, and what is wrong with the settings."""
        key, (kept, notice) = request.session_hash, self._draw(request, *chosen)
        if notice:  # else the former picture's patches would be drawn on this one
            kept = empty_panel("Kept patches", "Nothing can be chosen with these settings.")
        return (
            self.service.picture_source(key),
            self.service.draw_picture(key),
            kept,
            self.service.draw_importance(key),
            notice,
        )

    def _ask(self, request: gr.Request, question: str, *how: object) -> Iterator[tuple]:
        if not isinstance(question, str):
            raise no_event("the question is a text")
        for *shown, is_asked in self._answers(request, question, False, *how):
            yield *shown, "" if is_asked else question

    def _ask_again(self, request: gr.Request, *how: object) -> Iterator[tuple]:
        try:
            question = self.service.last_question(request.session_hash)
        except InputError as error:
            yield *self.service.transcript(request.session_hash), notice_of_error(error), KEEP, KEEP
            return
        for *shown, _ in self._answers(request, question, True, *how):
            yield tuple(shown)

    def _answers(
        self,
        request: gr.Request,
        question: str,
        again: bool,
        compare: object,
        temperature: object,
        length: object,
        *chosen: object,
    ) -> Iterator[tuple]:
        """As an answer comes: conversation, figures, notice, drawing, the settings' notice, whether it was asked."""
        key, kept = request.session_hash, KEEP
        try:
            pruning, options = chosen_settings(self.service, chosen), self.service.decoding(temperature, length)
        except ValueError as error:  # InputError is one
            yield *self.service.transcript(key), "", KEEP, notice_of_error(error), False
            return
        try:
            if pruning.question_views:
                kept = None
            for transcript, figures in self.service.ask(key, question, pruning, compare is True, options, again):
                kept = self.service.draw_kept(key, pruning) if kept is None else KEEP
                yield transcript, figures, "", kept, "", True
            if pruning.prunes_in_decoder:
                yield KEEP, KEEP, KEEP, self.service.draw_kept(key, pruning), "", True
        except PruningError as error:
            yield *self.service.transcript(key), "", KEEP, notice_of_error(error), False
        except ValueError as error:
            yield *self.service.transcript(key), notice_of_error(error), KEEP, "", False

    def _link(self, request: gr.Request, temperature: object, length: object, *chosen: object) -> tuple:
        """The query of the link to what was chosen, or why there is none."""
        try:
            pruning = chosen_settings(self.service, chosen)
            self.service.decoding(temperature, length)
        except ValueError as error:
            return "", notice_of_error(error)
        answering = {"temperature": temperature, "max_new_tokens": length}
        scene = self.service.visitors.get(request.session_hash).scene
        return query_of(self.service, pruning, answering, scene), KEEP

    def _draw(self, request: gr.Request, *chosen: object) -> tuple:
        try:
            return self.service.draw_kept(request.session_hash, chosen_settings(self.service, chosen)), ""
        except ValueError as error:
            return KEEP, notice_of_error(error)

    def _stop(self, request: gr.Request) -> tuple:
        self.service.stop(request.session_hash)
        return self.show(request)

    def _start_over(self, request: gr.Request) -> tuple:
        self.service.visitors.get(request.session_hash).start_over()
        return self.show(request)
