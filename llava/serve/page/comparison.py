"""The page's comparison in Gradio: one question, two to four settings beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import gradio as gr

from llava.pruning import Settings
from llava.pruning.method import NONE, VISPRUNER
from llava.pruning.settings import NAMES
from llava.serve.page.controls import (
    IMMEDIATE,
    KEEP,
    QUEUED,
    chosen_settings,
    column_controls,
    example_buttons,
    fitting_controls,
    no_event,
    notice_of_error,
    notice_of_text,
    plain_html,
)
from llava.serve.page.service import Service
from llava.serve.page.transcript import column_html

LEAST, MOST = 2, 4  # columns
_OTHERS = (NONE, "divprune", VISPRUNER, "random")  # methods that columns begin with, after the page's own


def first_settings(service: Service, own: Settings) -> list[Settings]:
    """The settings that the columns begin with: `own`, and other methods, or with a server other budgets."""
    if service.server is None:
        methods = [own.pruning_method, *(name for name in _OTHERS if name != own.pruning_method)]
        return [replace(own, pruning_method=name) for name in methods[:MOST]]
    numbers = [own.visual_token_num, service.patches, service.patches // 2, service.patches // 4]
    return [replace(own, visual_token_num=max(1, number)) for number in numbers]


class Comparison:
    """Its components as attributes, and a method for each thing that happens."""

    def __init__(self, service: Service) -> None:
        self.service = service
        with gr.Row(elem_id="compare-asking", elem_classes="asking"):
            self.question = gr.Textbox(
                placeholder="Ask all of them", show_label=False, container=False, scale=5, elem_id="compare-question"
            )
            self.ask = gr.Button("Compare", variant="primary", scale=1, min_width=100, elem_id="compare-ask")
        self.examples = example_buttons()
        self.notice = notice_of_text("compare-notice", "compare-question")
        self.shown = gr.State(list(range(LEAST)))  # the columns that are on the page
        self.has_begun = gr.State(False)  # whether it was looked at
        self.columns, self.removes, self.settings, self.results = [], [], [], []
        with gr.Row(elem_id="comparison"):
            for i, begin in enumerate(first_settings(service, service.settings)):
                self._add_column(i, begin)
        with gr.Row(elem_id="compare-more", elem_classes="more"):
            self.add = gr.Button("Add a column", size="sm", min_width=60, elem_id="compare-add")
            self.stop = gr.Button("Stop", size="sm", min_width=60, elem_id="compare-stop")

    def _add_column(self, i: int, begin: Settings) -> None:
        with gr.Column(min_width=200, visible=i < LEAST, elem_classes="column", elem_id=f"column-{i}") as column:
            self.settings.append(column_controls(self.service, begin, i))
            with gr.Column(elem_classes="chosen", min_width=0):
                drawn = plain_html(elem_id=f"kept-{i}", visible=self.service.model is not None)
                notice = plain_html(elem_id=f"notice-{i}", elem_classes="beside")
            said = plain_html(elem_id=f"said-{i}")
            self.removes.append(
                gr.Button("Remove this column", size="sm", visible=False, elem_id=f"remove-{i}", elem_classes="remove")
            )
        self.columns.append(column)
        self.results.append([drawn, notice, said])

    @property
    def all_settings(self) -> list[gr.components.Component]:
        """The controls of all columns, one column after the other."""
        return [control for controls in self.settings for control in controls.values()]

    @property
    def all_results(self) -> list[gr.components.Component]:
        """What is shown of all columns, one column after the other: drawing, error, answer."""
        return [part for parts in self.results for part in parts]

    def connect_asking(self, answering: Sequence) -> gr.events.Dependency:
        """Connect what asks; `answering` are the controls of how an answer is decoded. Returns what others cancel."""
        return gr.on(
            [self.ask.click, self.question.submit],
            self._ask,
            [self.shown, self.question, *answering, *self.all_settings],
            [self.notice, *self.all_results],
            concurrency_limit=None,
            preprocess=False,
            **QUEUED,
        )

    def connect(self, asked: gr.events.Dependency, tab: gr.Tab, settings: Sequence[gr.components.Component]) -> None:
        """Connect the rest; `asked` is what `connect_asking` has returned.

        The columns begin with the `settings` of the conversation, when the `tab` is opened for the first time.
        """
        begun = [self.has_begun, *self.all_settings]
        tab.select(self._begin, [self.has_begun, *settings], begun, preprocess=False, **IMMEDIATE)
        self.stop.click(self._stop, None, self.all_results, cancels=asked, **IMMEDIATE)
        every = [self.shown, self.add, *self.columns, *self.removes]
        added = self.add.click(self._add, self.shown, every, **IMMEDIATE)
        added.then(self.draw_all, [self.shown, *self.all_settings], self.all_results, preprocess=False, **IMMEDIATE)
        for i, (controls, results) in enumerate(zip(self.settings, self.results)):
            self.removes[i].click(partial(self._remove, i), self.shown, every, **IMMEDIATE)
            settings = list(controls.values())
            gr.on(
                [part.change for part in settings],  # `input` does not tell of a number that Gradio bounds
                self._drawing_of(i),
                settings,
                results[:2],
                trigger_mode="always_last",
                preprocess=False,
                **IMMEDIATE,
            )
            gr.on(
                [controls[name].input for name in ("pruning_method", "budget_per")],
                self._fit,
                settings,
                settings,
                preprocess=False,
                **IMMEDIATE,
            )

    def _begin(self, has_begun: bool, *chosen: object) -> list:
        nothing = [KEEP] * len(self.all_settings)
        if has_begun:
            return [True, *nothing]
        try:
            own = chosen_settings(self.service, chosen)
        except ValueError:  # which is said beside these settings; the columns then keep to the page's own
            return [False, *nothing]
        if own == self.service.settings:  # as they are already
            return [True, *nothing]
        updates, columns = [], first_settings(self.service, own)
        for values in (list(vars(begin).values()) for begin in columns):
            updates += [update | {"value": value} for update, value in zip(self._fit(*values), values)]
        return [True, *updates]

    def _ask(
        self, request: gr.Request, shown: list[int], question: str, temperature: object, length: object, *chosen: object
    ) -> Iterator[list]:
        key, results = request.session_hash, [KEEP] * len(self.all_results)
        try:
            if not isinstance(question, str):
                raise no_event("the question is a text")
            options, columns = self.service.decoding(temperature, length), {}
            for i, values in self._by_column(shown, chosen).items():
                results[3 * i : 3 * i + 3] = [KEEP, "", ""]
                try:
                    columns[i] = chosen_settings(self.service, values)
                except ValueError as error:
                    results[3 * i + 1] = notice_of_error(error)
            drawn = set()
            for column in self.service.compare(key, question, columns, options):
                i = next(i for i, own in columns.items() if own is column.pruning)
                results[3 * i + 2] = column_html(column)
                if column.error is not None:
                    results[3 * i + 1] = notice_of_error(column.error)
                elif i not in drawn and (column.answer.is_done or not column.pruning.prunes_in_decoder):
                    results[3 * i] = self._drawing(key, i, column.pruning)
                    drawn.add(i)
                yield ["", *results]
                results = [KEEP] * len(results)
        except ValueError as error:
            yield [notice_of_error(error), *results]

    def draw_all(self, request: gr.Request, shown: list[int], *chosen: object) -> list:
        """What is shown of each column now: drawing, error, answer; for all columns, one after the other."""
        key, results = request.session_hash, [KEEP] * len(self.all_results)
        comparison = self.service.visitors.get(key).comparison
        for i, values in self._by_column(shown, chosen).items():
            column = comparison and comparison.columns.get(i)
            drawing, notice = self._draw(i, key, values)
            if column and column.error is not None:
                notice = notice_of_error(column.error)
            results[3 * i : 3 * i + 3] = [drawing, notice, column_html(column) if column else ""]
        return results

    def _drawing_of(self, i: int) -> Callable:
        """What draws a column anew: by its annotation Gradio knows what takes the request."""

        def draw(request: gr.Request, *values: object) -> tuple:
            return self._draw(i, request.session_hash, values)

        return draw

    def _draw(self, i: int, key: str, values: Sequence) -> tuple:
        """The drawing of a column, and its error."""
        try:
            return self.service.draw_column(key, i, chosen_settings(self.service, values)), ""
        except ValueError as error:
            return KEEP, notice_of_error(error)

    def _drawing(self, key: str, i: int, pruning: Settings) -> object:
        try:
            return self.service.draw_column(key, i, pruning)
        except ValueError:  # which the answer says too
            return KEEP

    def _fit(self, *values: object) -> list:
        """How a column's controls change with its settings; a column has no room for a line about the method."""
        updates = dict(zip(NAMES, fitting_controls(self.service, *values)))
        return list((updates | {"pruning_method": KEEP}).values())

    def _stop(self, request: gr.Request) -> list:
        results = [KEEP] * len(self.all_results)
        comparison = self.service.visitors.get(request.session_hash).comparison
        if comparison is not None:
            comparison.stop()
            for i, column in comparison.columns.items():
                results[3 * i + 2] = column_html(column)
        return results

    def _by_column(self, shown: list[int], chosen: Sequence) -> dict[int, Sequence]:
        """The values of the settings of each column that is on the page."""
        return {i: chosen[i * len(NAMES) : (i + 1) * len(NAMES)] for i in shown}

    def _add(self, shown: list[int]) -> list:
        return self._show(sorted([*shown, min(set(range(MOST)) - set(shown))]) if len(shown) < MOST else shown)

    def _remove(self, i: int, shown: list[int]) -> list:
        return self._show([other for other in shown if other != i] if len(shown) > LEAST else shown)

    def _show(self, shown: list[int]) -> list:
        """The page with these columns."""
        return [
            shown,
            gr.update(visible=len(shown) < MOST),
            *(gr.update(visible=i in shown) for i in range(MOST)),
            *(gr.update(visible=len(shown) > LEAST) for _ in range(MOST)),
        ]
