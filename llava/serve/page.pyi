"""The page itself, in Gradio: what is where, and what happens on a click. What it does is `service`'s."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr

from llava.pruning import PruningSettings, method_label
from llava.pruning.registry import METHOD_NAMES, VISPRUNER
from llava.serve.samples import samples
from llava.serve.service import Service
from llava.serve.talk import notice_html

MOST_UPLOAD = "20mb"
QUESTIONS = ["Describe the image.", "What does the sign say?", "Is there a star in the image?"]
KEEP = gr.skip()  # as an output: stays as it is

class PictureUpload(gr.Image):
    """An image input that hands over the uploaded file as it is: what cannot be read is told on the page."""

    is_template = True  # the browser draws it as the class above

    def preprocess(self, payload) -> str | None:
        return payload.path if payload else None
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

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

def build_page(service: Service, settings: PruningSettings, about: str) -> gr.Blocks:
    """The page of a service; `settings` are those that it begins with, `about` says in a line what answers."""
    return _Page(service, settings, about).blocks

class _Page:
    """Its components as attributes, and a method for each thing that happens."""

    def __init__(self, service: Service, settings: PruningSettings, about: str) -> None:
        self.service, self.settings, self.samples = service, settings, samples()
        with gr.Blocks(title="VisPruner", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            self.source = gr.HTML(elem_id="source", padding=False)
            with gr.Row(elem_id="head"):
                gr.HTML(
                    f"<h1>VisPruner</h1><p>Which patches of a picture are kept, and what is answered from them. "
                    f"<span>{escape(about)}</span></p>",
                    padding=False,
                )
                self.queue = gr.HTML(_queue_html(service), elem_id="queue", padding=False)
            with gr.Row(elem_id="columns"):
                with gr.Column(scale=1, min_width=280, elem_id="choices"):
                    self._add_choices()
                with gr.Column(scale=3, min_width=300, elem_id="results"):
                    self._add_results()
            self._connect()

    def _add_choices(self) -> None:
        self.upload = PictureUpload(
            label="Picture",
            sources=["upload", "clipboard"],
            height=170,
            buttons=[],
            elem_id="upload",
            placeholder=f"Drop a picture here, or click\n(up to {MOST_UPLOAD[:-2]} MB)",
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
        )
        most, settings = self.service.patches, self.settings
        self.tokens = gr.Slider(
            1, most, settings.visual_token_num, step=1, label="Visual tokens kept of each crop (T)", elem_id="tokens"
        )
        self.ratio = gr.Slider(
            0,
            1,
            settings.important_ratio,
            step=0.05,
            label="Share of them that is important (important_ratio)",
            interactive=settings.pruning_method == VISPRUNER,
            elem_id="ratio",
        )
        names = dict.fromkeys([*METHOD_NAMES, settings.pruning_method])
        self.method = gr.Dropdown(
            [(method_label(name), name) for name in names],
            value=settings.pruning_method,
            label="Method",
            visible=self.service.server is None,
            elem_id="method",
        )

    def _add_results(self) -> None:
        with gr.Row(elem_id="drawings"):
            self.kept = gr.HTML(elem_id="kept", padding=False, min_width=260)
            heat_is_shown = self.service.model is not None
            self.heat = gr.HTML(elem_id="heat", padding=False, min_width=260, visible=heat_is_shown)
        self.talk = gr.HTML(elem_id="talk", padding=False)
        self.notice = gr.HTML(elem_id="notice", padding=False)
        with gr.Row(elem_id="asking"):
            self.question = gr.Textbox(
                placeholder="Ask about the picture", show_label=False, container=False, scale=5, elem_id="question"
            )
            self.ask = gr.Button("Ask", variant="primary", scale=1, min_width=80, elem_id="ask")
        with gr.Row(elem_id="more"):
            self.compare = gr.Checkbox(label="Answer without pruning too", container=False, elem_id="compare")
            self.stop = gr.Button("Stop", size="sm", min_width=60, elem_id="stop")
            self.anew = gr.Button("New conversation", size="sm", min_width=60, elem_id="anew")
        with gr.Row(elem_id="questions"):
            for question in QUESTIONS:
                button = gr.Button(question, size="sm", min_width=60)
                button.click(lambda text=question: text, None, self.question, queue=False, show_progress="hidden")
        self.figures = gr.HTML(elem_id="figures", padding=False)

    def _connect(self) -> None:
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        settings = [self.tokens, self.ratio, self.method]
        talk, everything = [self.talk, self.figures, self.notice], [self.source, self.kept, self.heat]
        asked = gr.on(
            [self.ask.click, self.question.submit],
            self._ask,
            [self.question, *settings, self.compare],
            [*talk, self.question],
            concurrency_limit=None,
            **quiet,
        )
        now = {"queue": False, **quiet}
        self.upload.upload(
            self._take_upload, [self.upload, *settings], [self.upload, *everything, *talk], cancels=asked, **quiet
        )
        self.gallery.select(self._take_sample, settings, [*everything, *talk], cancels=asked, **quiet)
        gr.on(
            [part.input for part in settings],
            self._draw,
            settings,
            [self.kept, self.notice],
            trigger_mode="always_last",
            **now,
        )
        self.method.input(lambda name: gr.update(interactive=name == VISPRUNER), self.method, self.ratio, **now)
        self.stop.click(self._show_talk, None, talk, cancels=asked, **now)
        self.anew.click(self._start_over, None, talk, cancels=asked, **now)
        self.blocks.load(self._take_first, settings, [*everything, *talk], **quiet)
        self.blocks.unload(self._forget)
        gr.Timer(2).tick(lambda: _queue_html(self.service), None, self.queue, **now)

    def _pruning(self, tokens: int | None, ratio: float | None, method: str) -> PruningSettings:
        """What is chosen on the page. Raises ValueError for what a slider's number was overwritten with."""
        return replace(self.settings, visual_token_num=tokens, important_ratio=ratio, pruning_method=method)

    def _ask(
        self, question: str, tokens: int, ratio: float, method: str, compare: bool, request: gr.Request
    ) -> Iterator[tuple]:
        key = request.session_hash
        try:
            pruning = self._pruning(tokens, ratio, method)
            for talk, figures in self.service.ask(key, question, pruning, compare):
                yield talk, figures, "", ""
        except ValueError as error:  # InputError is one
            yield *self.service.talk(key), _notice(error), question

    def _take_upload(self, file: str | None, tokens: int, ratio: float, method: str, request: gr.Request) -> tuple:
        if file is None:
            return KEEP, *[KEEP] * 6
        try:
            return None, *self._take(Path(file), tokens, ratio, method, request.session_hash)
        finally:
            Path(file).unlink(missing_ok=True)  # what is needed of it is in memory

    def _take_sample(self, tokens: int, ratio: float, method: str, request: gr.Request, chosen: gr.SelectData) -> tuple:
        return self._take(self.samples[chosen.index].file, tokens, ratio, method, request.session_hash)

    def _take_first(self, tokens: int, ratio: float, method: str, request: gr.Request) -> tuple:
        if self.samples:
            return self._take(self.samples[0].file, tokens, ratio, method, request.session_hash)
        return KEEP, *self._draw(tokens, ratio, method, request)[:1], KEEP, *self._show_talk(request)

    def _take(self, file: Path, tokens: int, ratio: float, method: str, key: str) -> tuple:
        try:
            pruning = self._pruning(tokens, ratio, method)
            source = self.service.take_picture(key, file, file.name)
            drawn = self.service.draw_kept(key, pruning), self.service.draw_importance(key)
        except ValueError as error:
            return KEEP, KEEP, KEEP, *self.service.talk(key), _notice(error)
        return source, *drawn, *self.service.talk(key), ""

    def _draw(self, tokens: int, ratio: float, method: str, request: gr.Request) -> tuple:
        try:
            return self.service.draw_kept(request.session_hash, self._pruning(tokens, ratio, method)), ""
        except ValueError as error:
            return KEEP, _notice(error)

    def _show_talk(self, request: gr.Request) -> tuple:
        return *self.service.talk(request.session_hash), ""

    def _start_over(self, request: gr.Request) -> tuple:
        self.service.visitors.get(request.session_hash).start_over()
        return self._show_talk(request)

    def _forget(self, request: gr.Request) -> None:
        self.service.visitors.forget(request.session_hash)

def _notice(error: ValueError) -> str:
    """An error as a sentence on the page."""
    text = " ".join(str(error).split())
    return notice_html(text[:1].upper() + text[1:])

def _queue_html(service: Service) -> str:
    return f"<p>{escape(service.queue())}</p>"

class Number(gr.Slider):
    """A slider that hands over its number as it is: one that cannot be is told on the page."""

    is_template = True

    def preprocess(self, payload: float | None) -> float | None:
        return payload
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component
