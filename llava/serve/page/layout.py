"""The page in Gradio: what is where, and what happens on a click. What the page does is in `service`."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from llava.errors import InputError
from llava.pruning.settings import NAMES
from llava.serve.page.comparison import Comparison
from llava.serve.page.controls import (
    IMMEDIATE,
    KEEP,
    QUEUED,
    answer_controls,
    fitting_controls,
    no_event,
    notice_of_error,
    plain_html,
    setting_controls,
)
from llava.serve.page.conversation import Conversation
from llava.serve.page.events import COOKIE, Uploads
from llava.serve.page.links import Link
from llava.serve.page.samples import QUESTIONS, samples
from llava.serve.page.service import Service
from llava.serve.page.transcript import notice_html

MOST_UPLOAD = "20mb"
NONE_MARKED = -1  # of the gallery's pictures: Gradio lets the mark stay for None


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
            self.source = plain_html(elem_id="source")
            with gr.Row(elem_id="head"):
                plain_html(_head_html(about))
                self.queue = plain_html(_queue_html(service), elem_id="queue")
            with gr.Row(elem_id="columns"):
                with gr.Column(scale=1, min_width=280, elem_id="choices"):
                    self._add_choices()
                with gr.Column(scale=3, min_width=300, elem_id="results"), gr.Tabs():
                    with gr.Tab("Ask", elem_id="ask-tab"):
                        self.conversation = Conversation(service, self.settings, self.answering, self.settings_notice)
                    with gr.Tab("Compare", elem_id="compare-tab", visible=service.takes_settings) as self.compare_tab:
                        self.comparison = Comparison(service)
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
        self.uploaded = plain_html(elem_id="uploaded", elem_classes="beside")
        self.picture_notice = plain_html(
            elem_id="picture-notice", elem_classes="beside", js_on_load=refuse_uploads_js()
        )
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
        plain_html(fold, elem_id="fold", visible=self.service.takes_settings)  # what it folds is said by the style
        self.settings = setting_controls(self.service)
        self.settings_notice = plain_html(elem_id="settings-notice", elem_classes="beside")
        with gr.Accordion("Temperature and length", open=False, elem_id="answering", elem_classes="folded"):
            self.answering = answer_controls(self.service)

    def _connect(self) -> None:
        # Where Gradio's preprocessing refuses a value it says nothing of use: `service.pruning` and `_uploaded` do.
        as_they_are = {"preprocess": False}
        settings = list(self.settings.values())
        asked, compared = self.conversation.connect_asking(), self.comparison.connect_asking(self.answering)
        taking = [*self.conversation.shown, self.picture_notice, self.uploaded, self.gallery]
        ended = [*asked, compared]
        uploaded = self.upload.upload(
            self._take_upload, self.upload, [self.upload, *taking], cancels=ended, **QUEUED, **as_they_are
        )
        chosen = self.gallery.select(self._take_sample, None, taking, cancels=ended, **QUEUED)
        loaded = self.blocks.load(self._begin, None, [*taking, *self.answering, *settings], **QUEUED)
        uploaded.then(self._delete_upload, None, None, **IMMEDIATE)
        drawn = [self.source, *self.conversation.drawings, self.settings_notice]
        for taken in (uploaded, chosen, loaded):
            taken.then(self.conversation.draw_all, settings, drawn, **IMMEDIATE, **as_they_are).then(
                self.comparison.draw_all,
                [self.comparison.shown, *self.comparison.all_settings],
                self.comparison.all_results,
                **IMMEDIATE,
                **as_they_are,
            )
            taken.then(
                self._fitting_questions, None, [*self.conversation.examples, *self.comparison.examples], **IMMEDIATE
            )
        gr.on(
            [self.settings[name].input for name in ("pruning_method", "budget_per")],
            lambda *values: fitting_controls(self.service, *values),
            settings,
            settings,
            **IMMEDIATE,
            **as_they_are,
        )
        for part in (self.conversation, self.comparison):
            for button in part.examples:
                button.click(None, button, [part.question, part.notice], js="text => [text, '']")
        self.conversation.connect(asked)
        self.comparison.connect(compared, self.compare_tab, settings)
        self.blocks.unload(self._forget)
        gr.Timer(2).tick(lambda: _queue_html(self.service), None, self.queue, **IMMEDIATE)

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
            raise no_event("there is no such picture")
        return self._take_scene(chosen.index, request)

    def _take_scene(self, index: int, request: gr.Request) -> tuple:
        sample = self.samples[index]
        taken = self._take(sample.file, sample.title, index, request)
        self.service.visitors.get(request.session_hash).scene = sample.title
        return taken

    def _begin(self, request: gr.Request) -> tuple:
        """What `_take` returns, and the values of the controls, as the page's address says."""
        link = Link(self.service, self.samples, dict(request.query_params))
        nothing = *self.conversation.show(request), "", "", KEEP
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

    def _take(self, file: Path, name: str, number: int | None, request: gr.Request) -> tuple:
        """Take a picture, that of a sample with this number or one that was uploaded: the outputs of `taking`."""
        key = request.session_hash
        try:
            self.service.take_picture(key, file, name)
        except ValueError as error:
            return self._refused(error)
        thumbnail = self.service.draw_upload(key) if number is None else ""
        marked = NONE_MARKED if number is None else number
        return *self.conversation.show(request), "", thumbnail, gr.update(selected_index=marked)

    def _refused(self, error: ValueError) -> tuple:
        """The outputs of `taking` for a picture that could not be taken: the former one stays."""
        return KEEP, KEEP, KEEP, notice_of_error(error), KEEP, KEEP

    def _delete_upload(self, request: gr.Request) -> None:
        """Delete what a visitor has uploaded, once the browser does not show it any more: the rest is in memory."""
        file = self.read_uploads.pop(request.session_hash, None)
        if file is not None and not self.uploads.is_wanted(str(file)):
            file.unlink(missing_ok=True)

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


def _queue_html(service: Service) -> str:
    return f"<p>{escape(service.queue_state())}</p>"
