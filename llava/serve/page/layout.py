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
from llava.serve.page.controls import fitting_controls, setting_controls
from llava.serve.page.drawing import empty_panel
from llava.serve.page.events import COOKIE, Uploads
from llava.serve.page.samples import samples
from llava.serve.page.service import Service
from llava.serve.page.transcript import notice_html

logger = logging.getLogger(__name__)
MOST_UPLOAD = "20mb"
QUESTIONS = ["Describe the image.", "What does the sign say?", "Is there a star in the image?"]
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
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


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
                with gr.Column(scale=3, min_width=300, elem_id="results"):
                    self._add_results()
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
            selected_index=0 if self.samples else None,  # that of `_take_first`
        )
        fold = "<details><summary>Method and more settings</summary></details>"
        _html(fold, elem_id="fold", visible=self.service.takes_settings)  # what it folds is said by the style
        self.settings = setting_controls(self.service)
        self.settings_notice = _html(elem_id="settings-notice", elem_classes="beside")

    def _add_results(self) -> None:
        with gr.Row(elem_id="drawings"):
            self.picture = _html(elem_id="picture")
            self.kept = _html(elem_id="kept")
            heat_is_shown = self.service.model is not None
            self.heat = _html(elem_id="heat", visible=heat_is_shown)
        self.transcript = _html(elem_id="talk")
        self.notice = _html(elem_id="notice", elem_classes="beside")
        with gr.Row(elem_id="asking"):
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
            self.anew = gr.Button("New conversation", size="sm", min_width=60, elem_id="anew")
        with gr.Row(elem_id="questions"):
            for question in QUESTIONS:
                button = gr.Button(question, size="sm", min_width=60)
                button.click(lambda text=question: (text, ""), None, [self.question, self.notice], **IMMEDIATE)
        self.figures = _html(elem_id="figures")

    def _connect(self) -> None:
        # Where Gradio's preprocessing refuses a value it says nothing of use: `service.pruning` and `_uploaded` do.
        as_they_are = {"preprocess": False}
        settings, shown = list(self.settings.values()), [self.transcript, self.figures, self.notice]
        asked = gr.on(
            [self.ask.click, self.question.submit],
            self._ask,
            [self.question, self.compare, *settings],
            [*shown, self.question, self.settings_notice],
            concurrency_limit=None,
            **QUEUED,
            **as_they_are,
        )
        taking = [*shown, self.picture_notice, self.uploaded, self.gallery]
        uploaded = self.upload.upload(
            self._take_upload, self.upload, [self.upload, *taking], cancels=asked, **QUEUED, **as_they_are
        )
        chosen = self.gallery.select(self._take_sample, None, taking, cancels=asked, **QUEUED)
        loaded = self.blocks.load(self._take_first, None, taking, **QUEUED)
        uploaded.then(self._delete_upload, None, None, **IMMEDIATE)
        for taken in (uploaded, chosen, loaded):
            drawn = [self.source, self.picture, self.kept, self.heat, self.settings_notice]
            taken.then(self._draw_all, settings, drawn, **IMMEDIATE, **as_they_are)
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
        self.stop.click(self._stop, None, shown, cancels=asked, **IMMEDIATE)
        self.anew.click(self._start_over, None, shown, cancels=asked, **IMMEDIATE)
        self.question.input(None, None, self.notice, js="() => ''", **IMMEDIATE)  # what was wrong is being changed
        self.blocks.unload(self._forget)
        gr.Timer(2).tick(lambda: _queue_html(self.service), None, self.queue, **IMMEDIATE)

    def _ask(self, request: gr.Request, question: str, compare: bool, *chosen: object) -> Iterator[tuple]:
        key = request.session_hash
        if not isinstance(question, str):
            raise _no_event("the question is a text")
        try:
            pruning = self._pruning(chosen)
        except ValueError as error:  # InputError is one
            yield *self.service.transcript(key), "", question, _notice(error)
            return
        try:
            for transcript, figures in self.service.ask(key, question, pruning, compare is True):
                yield transcript, figures, "", "", ""
        except PruningError as error:
            yield *self.service.transcript(key), "", question, _notice(error)
        except ValueError as error:
            yield *self.service.transcript(key), _notice(error), question, ""

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
        return self._take_numbered(chosen.index, request)

    def _take_first(self, request: gr.Request) -> tuple:
        if not self.samples:
            return *self._show_transcript(request), "", "", KEEP
        return self._take_numbered(0, request)

    def _take_numbered(self, number: int, request: gr.Request) -> tuple:
        sample = self.samples[number]
        return self._take(sample.file, sample.title, number, request)

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
