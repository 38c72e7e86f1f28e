"""The page in Gradio: what is where, and what happens on a click. What the page does is in `service`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import gradio as gr

from llava.errors import InputError
from llava.pruning import MethodError, PruningError, Settings
from llava.pruning.settings import NAMES
from llava.serve.page.comparison import Comparison
from llava.serve.page.controls import (
    answer_controls,
    example_buttons,
    fitting_controls,
    notice_of_text,
    setting_controls,
)
from llava.serve.page.drawing import empty_panel
from llava.serve.page.events import COOKIE, Uploads
from llava.serve.page.links import Link, query_of
from llava.serve.page.samples import QUESTIONS, samples
from llava.serve.page.service import Service
from llava.serve.page.transcript import notice_html

logger = logging.getLogger(__name__)
MOST_UPLOAD = "20mb"
NONE_MARKED = -1  # of the gallery's pictures: Gradio lets the mark stay for None
KEEP = gr.skip()  # as an output: stays as it is
QUEUED = {"show_progress": "hidden", "api_visibility": "private"}  # events that may wait in Gradio's queue
IMMEDIATE = {"queue": False, **QUEUED}  # events that must not


def theme() -> gr.themes.Base:
    """Fonts of the machine that looks at the page: nothing is fetched from elsewhere."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def css() -> str:
    """The page's own style."""
    folder = Path(__file__).parent
    return "".join((folder / name).read_text(encoding="utf-8") for name in ("page.css", "comparison.css"))


def head() -> str:
    """The page's own script."""
    return f"<script>{Path(__file__).with_name('page.js').read_text(encoding='utf-8')}</script>"


def build_page(service: Service, about: str, uploads: Uploads) -> gr.Blocks:
    """The page of a service; `about` says what answers, and `uploads` who has uploaded what."""
    blocks = _Page(service, about, uploads).blocks
    # Else Gradio takes any file of this machine that a browser names for one that it has uploaded: it checks them only
    # in pages that it has launched itself, and this one is mounted.
    blocks.has_launched = True
    return blocks


class _Page:
    """Its components as attributes, and a method for each thing that happens."""

    def __init__(self, service: Service, about: str, uploads: Uploads) -> None:
        self.service, self.uploads, self.samples = service, uploads, samples()
        self.read_uploads: dict[str, Path] = {}  # of whom, until they are deleted
        with gr.Blocks(title="VisPruner", analytics_enabled=False, delete_cache=(60, 600)) as self.blocks:
            self.source = _html(elem_id="source")
            with gr.Row(elem_id="head"):
                _html(_head_html(about))
                self.queue = _html(_queue_html(service), elem_id="queue")
            with gr.Row(elem_id="columns"):
                with gr.Column(scale=1, min_width=280, elem_id="choices"):
                    self._add_choices()
                with gr.Column(scale=3, min_width=300, elem_id="results"), gr.Tabs():
                    with gr.Tab("Ask", elem_id="ask-tab"):
                        self._add_results()
                    with gr.Tab("Compare", elem_id="compare-tab", visible=service.takes_settings):
                        self.comparison = Comparison(service, _notice)
            self._connect()

    def _add_choices(self) -> None:
        self.upload = gr.Image(
            label="Picture",
            sources=["upload", "clipboard"],
            height=170,
            buttons=[],
            elem_id="upload",
            placeholder=f"Drop a picture here, or click\n(up to {MOST_UPLOAD[:-2]} MB)",
        )
        self.uploaded = _html(elem_id="uploaded", elem_classes="beside")
        self.picture_notice = _html(elem_id="picture-notice", elem_classes="beside", js_on_load=refuse_uploads_js())
        self.gallery = gr.Gallery(
            [(str(sample.file), sample.title) for sample in self.samples],
            label="Or choose one",
            columns=4,
            allow_preview=False,
            buttons=[],
            interactive=False,
            object_fit="cover",
            height="auto",
            elem_id="gallery",
            visible=bool(self.samples),
            selected_index=0 if self.samples else None,  # else none is marked before the first one is loaded
        )
        fold = "<details><summary>Method and more settings</summary></details>"
        _html(fold, elem_id="fold", visible=self.service.takes_settings)  # what it folds is said by the style
        self.settings = setting_controls(self.service)
        self.settings_notice = _html(elem_id="settings-notice", elem_classes="beside")
        with gr.Accordion("Temperature and length", open=False, elem_id="answering", elem_classes="folded"):
            self.answering = answer_controls(self.service)

    def _add_results(self) -> None:
        with gr.Row(elem_id="drawings"):
            self.picture = _html(elem_id="picture")
            self.kept = _html(elem_id="kept")
            heat_is_shown = self.service.model is not None
            self.heat = _html(elem_id="heat", visible=heat_is_shown)
        self.transcript = _html(elem_id="talk")
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
        self.figures = _html(elem_id="figures")

    def _connect(self) -> None:
        # Where Gradio's preprocessing refuses a value it says nothing of use: `service.pruning` and `_uploaded` do.
        as_they_are = {"preprocess": False}
        settings, shown = list(self.settings.values()), [self.transcript, self.figures, self.notice]
        how = [self.compare, *self.answering, *settings]
        answer = {"concurrency_limit": None, **QUEUED, **as_they_are}
        asked = gr.on(
            [self.ask.click, self.question.submit],
            self._ask,
            [self.question, *how],
            [*shown, self.kept, self.settings_notice, self.question],
            **answer,
        )
        again = self.again.click(self._ask_again, how, [*shown, self.kept, self.settings_notice], **answer)
        compared = self.comparison.connect_asking(self.answering, QUEUED)
        talking, taking = [asked, again], [*shown, self.picture_notice, self.uploaded, self.gallery]
        ended = [*talking, compared]
        uploaded = self.upload.upload(
            self._take_upload, self.upload, [self.upload, *taking], cancels=ended, **QUEUED, **as_they_are
        )
        chosen = self.gallery.select(self._take_sample, None, taking, cancels=ended, **QUEUED)
        loaded = self.blocks.load(self._begin, None, [*taking, *self.answering, *settings], **QUEUED)
        uploaded.then(self._delete_upload, None, None, **IMMEDIATE)
        drawn = [self.source, self.picture, self.kept, self.heat, self.settings_notice]
        for taken in (uploaded, chosen, loaded):
            taken.then(self._draw_all, settings, drawn, **IMMEDIATE, **as_they_are).then(
                self.comparison.draw_all,
                [self.comparison.shown, *self.comparison.all_settings],
                self.comparison.all_results,
                **IMMEDIATE,
                **as_they_are,
            )
            taken.then(self._fitting_questions, None, [*self.examples, *self.comparison.examples], **IMMEDIATE)
        gr.on(
            [part.change for part in settings],  # `input` does not tell of a number that Gradio bounds
            self._draw,
            settings,
            [self.kept, self.settings_notice],
            trigger_mode="always_last",
            **IMMEDIATE,
            **as_they_are,
        )
        gr.on(
            [self.settings[name].input for name in ("pruning_method", "budget_per")],
            lambda *values: fitting_controls(self.service, *values),
            settings,
            settings,
            **IMMEDIATE,
            **as_they_are,
        )
        for button, then in ((self.stop, self._stop), (self.anew, self._start_over)):
            ended = button.click(then, None, shown, cancels=talking, **IMMEDIATE)
            ended.then(self._draw, settings, [self.kept, self.settings_notice], **IMMEDIATE, **as_they_are)
        self.link.click(
            self._link, [*self.answering, *settings], [self.query, self.settings_notice], **IMMEDIATE, **as_they_are
        ).then(None, self.query, None, js="query => window.llavaLink(query)")
        for part in (self, self.comparison):
            for button in part.examples:
                button.click(None, button, [part.question, part.notice], js="text => [text, '']")
        self.comparison.connect(compared, IMMEDIATE)
        self.blocks.unload(self._forget)
        gr.Timer(2).tick(lambda: _queue_html(self.service), None, self.queue, **IMMEDIATE)

    def _ask(self, request: gr.Request, question: str, *how: object) -> Iterator[tuple]:
        if not isinstance(question, str):
            raise _no_event("the question is a text")
        for *shown, is_asked in self._answers(request, question, False, *how):
            yield *shown, "" if is_asked else question

    def _ask_again(self, request: gr.Request, *how: object) -> Iterator[tuple]:
        try:
            question = self.service.last_question(request.session_hash)
        except InputError as error:
            yield *self.service.transcript(request.session_hash), _notice(error), KEEP, KEEP
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
            pruning, options = self._pruning(chosen), self.service.decoding(temperature, length)
        except ValueError as error:  # InputError is one
            yield *self.service.transcript(key), "", KEEP, _notice(error), False
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
            yield *self.service.transcript(key), "", KEEP, _notice(error), False
        except ValueError as error:
            yield *self.service.transcript(key), _notice(error), KEEP, "", False

    def _pruning(self, chosen: Sequence) -> Settings:
        """The settings of the controls' values. Raises ValueError for an invalid one."""
        return self.service.pruning(**dict(zip(NAMES, chosen, strict=True)))

    def _take_upload(self, sent: dict | None, request: gr.Request) -> tuple:
        try:
            file = self._uploaded(sent, request)
        except InputError as error:
            return None, *self._refused(error)
        self.read_uploads[request.session_hash] = file
        return None, *self._take(file, file.name, None, request)

    def _uploaded(self, sent: dict | None, request: gr.Request) -> Path:
        """The file that a browser has uploaded. Raises InputError for any other, also one taken before."""
        path = sent.get("path") if sent else None
        if not isinstance(path, str) or not self.uploads.take(path, request.cookies.get(COOKIE, "")):
            raise InputError("nothing was uploaded")
        return Path(path)

    def _take_sample(self, request: gr.Request, chosen: gr.SelectData) -> tuple:
        if not 0 <= chosen.index < len(self.samples):
            raise _no_event("there is no such picture")
        return self._take_scene(chosen.index, request)

    def _take_scene(self, index: int, request: gr.Request) -> tuple:
        sample = self.samples[index]
        taken = self._take(sample.file, sample.title, index, request)
        self.service.visitors.get(request.session_hash).scene = sample.title
        return taken

    def _begin(self, request: gr.Request) -> tuple:
        """What `_take` returns, and the values of the controls, as the page's address says."""
        link = Link(self.service, self.samples, dict(request.query_params))
        nothing = *self._show_transcript(request), "", "", KEEP
        taken = self._take_scene(link.scene, request) if self.samples else nothing
        if link.problem:
            taken = *taken[:2], notice_html(link.problem), *taken[3:]
        values = vars(link.pruning)
        fitting = fitting_controls(self.service, *(values[name] for name in NAMES))
        settings = [update | {"value": values[name]} for name, update in zip(NAMES, fitting)]
        return *taken, *link.answering.values(), *settings

    def _fitting_questions(self, request: gr.Request) -> list[str]:
        """What the buttons with questions say, of this picture."""
        scene = self.service.visitors.get(request.session_hash).scene
        found = [sample.questions for sample in self.samples if sample.title == scene]
        return [*(found[0] if found else QUESTIONS)] * 2

    def _link(self, request: gr.Request, temperature: object, length: object, *chosen: object) -> tuple:
        """The query of the link to what was chosen, or why there is none."""
        try:
            pruning = self._pruning(chosen)
            self.service.decoding(temperature, length)
        except ValueError as error:
            return "", _notice(error)
        answering = {"temperature": temperature, "max_new_tokens": length}
        scene = self.service.visitors.get(request.session_hash).scene
        return query_of(self.service, pruning, answering, scene), KEEP

    def _take(self, file: Path, name: str, number: int | None, request: gr.Request) -> tuple:
        """Take a picture, that of a sample with this number or one that was uploaded: the outputs of `taking`."""
        key = request.session_hash
        try:
            self.service.take_picture(key, file, name)
        except ValueError as error:
            return self._refused(error)
        thumbnail = self.service.draw_upload(key) if number is None else ""
        marked = NONE_MARKED if number is None else number
        return *self._show_transcript(request), "", thumbnail, gr.update(selected_index=marked)

    def _refused(self, error: ValueError) -> tuple:
        """The outputs of `taking` for a picture that could not be taken: the former one stays."""
        return KEEP, KEEP, KEEP, _notice(error), KEEP, KEEP

    def _delete_upload(self, request: gr.Request) -> None:
        """Delete what a visitor has uploaded, once the browser does not show it any more: the rest is in memory."""
        file = self.read_uploads.pop(request.session_hash, None)
        if file is not None and not self.uploads.is_wanted(str(file)):
            file.unlink(missing_ok=True)

    def _draw_all(self, request: gr.Request, *chosen: object) -> tuple:
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

    def _draw(self, request: gr.Request, *chosen: object) -> tuple:
        try:
            return self.service.draw_kept(request.session_hash, self._pruning(chosen)), ""
        except ValueError as error:
            return KEEP, _notice(error)

    def _show_transcript(self, request: gr.Request) -> tuple:
        return *self.service.transcript(request.session_hash), ""

    def _stop(self, request: gr.Request) -> tuple:
        self.service.stop(request.session_hash)
        return self._show_transcript(request)

    def _start_over(self, request: gr.Request) -> tuple:
        self.service.visitors.get(request.session_hash).start_over()
        return self._show_transcript(request)

    def _forget(self, request: gr.Request) -> None:
        self._delete_upload(request)
        self.service.visitors.forget(request.session_hash)


def refuse_uploads_js() -> str:
    """What a browser runs to refuse files that are no pictures or too large, before it sends them."""
    script = Path(__file__).with_name("uploads.js").read_text(encoding="utf-8")
    return f"const MOST_MEGABYTES = {MOST_UPLOAD[:-2]};\n{script}"


def _head_html(about: str) -> str:
    """The page's name and what it is for; `about` has a line for what answers, and more for what to know of it."""
    first, *more = map(escape, about.splitlines())
    lines = "".join(f"<p>{line}</p>" for line in more)
    return (
        "<h1>VisPruner</h1><p>Which patches of a picture are kept, and what is answered from them.</p>"
        f'<details><summary>About</summary></details><div class="about"><p>{first}</p>{lines}</div>'
    )


def _html(value: str = "", **options) -> gr.HTML:
    """HTML without Gradio's own style."""
    return gr.HTML(value, apply_default_css=False, **options)


def _no_event(why: str) -> gr.Error:
    """The error for what no browser sends, which Gradio does not log."""
    return gr.Error(why, print_exception=False)


def _notice(error: ValueError) -> str:
    """An error as a sentence on the page; the log has the traceback of a user's pruning method."""
    if isinstance(error, MethodError):
        logger.error("a pruning method failed", exc_info=error)
    text = " ".join(str(error).split())
    is_name = "_" in text.partition(" ")[0]
    return notice_html(text if is_name else text[:1].upper() + text[1:])


def _queue_html(service: Service) -> str:
    return f"<p>{escape(service.queue_state())}</p>"
