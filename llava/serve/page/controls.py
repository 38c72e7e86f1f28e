"""The page's controls for the pruning settings: one for each field of `Settings`, as its type and value say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import Field, fields

import gradio as gr

from llava.pruning import MethodError, PruningError, Settings, load_method, method_label
from llava.pruning.method import NONE, method_summary
from llava.pruning.settings import NAMES
from llava.serve.page.samples import QUESTIONS
from llava.serve.page.service import Service
from llava.serve.page.transcript import notice_html

logger = logging.getLogger(__name__)
KEEP = gr.skip()  # as an output: stays as it is
QUEUED = {"show_progress": "hidden", "api_visibility": "private"}  # events that may wait in Gradio's queue
IMMEDIATE = {"queue": False, **QUEUED}  # events that must not
UNPRUNED = "unpruned"  # what the method `none` is called here


def setting_controls(service: Service) -> dict[str, gr.components.Component]:
    """A control for each setting, in the order of the fields; those that cannot be chosen here are hidden."""
    return {field.name: _control(field, service, service.settings, field.name) for field in fields(Settings)}


def column_controls(service: Service, begin: Settings, column: int) -> dict[str, gr.components.Component]:
    """The controls of a column of the comparison, in the order of the fields: method and T, the rest in a fold."""
    made, by_name = {}, {field.name: field for field in fields(Settings)}

    def add(name: str) -> None:
        made[name] = _control(by_name[name], service, begin, f"{name}-{column}", is_short=True)

    for name in ("pruning_method", "visual_token_num"):
        add(name)
    with gr.Accordion("More settings", open=False, elem_classes="more-settings"):
        for name in NAMES:
            if name not in made:
                add(name)
    return {name: made[name] for name in NAMES}


def example_buttons() -> list[gr.Button]:
    """A row of buttons for questions that fit the picture."""
    with gr.Row(elem_classes="questions"):
        return [gr.Button(question, size="sm", min_width=60) for question in QUESTIONS]


def answer_controls(service: Service) -> list[gr.components.Component]:
    """Temperature and length of the answers."""
    options = service.options
    return [
        gr.Slider(
            0,
            2,
            options.get("temperature", 0) if options.get("do_sample") else 0,
            step=0.05,
            label="Temperature",
            info="0 gives the likeliest answer; more draws at random",
            elem_id="temperature",
        ),
        gr.Slider(
            1,
            service.most_answer,
            options["max_new_tokens"],
            step=1,
            label="Length",
            info="tokens of an answer at most",
            elem_id="max_new_tokens",
        ),
    ]


def chosen_settings(service: Service, values: Sequence) -> Settings:
    """The settings that these values of the controls say. Raises ValueError for an invalid one."""
    return service.pruning(**dict(zip(NAMES, values, strict=True)))


def notice_of_text(elem_id: str, edited: str) -> gr.HTML:
    """HTML of what is wrong with the text in the component `edited`; it goes when somebody changes that text."""
    # Gradio's own event `input` comes with keys alone: not when a text is pasted with the mouse.
    goes = (
        f"document.addEventListener('input', event => {{ if (event.target.closest('#{edited}')) props.value = ''; }});"
    )
    return gr.HTML(elem_id=elem_id, elem_classes="beside", apply_default_css=False, js_on_load=goes)


def plain_html(value: str = "", **options) -> gr.HTML:
    """HTML without Gradio's own style."""
    return gr.HTML(value, apply_default_css=False, **options)


def no_event(why: str) -> gr.Error:
    """The error for what no browser sends, which Gradio does not log."""
    return gr.Error(why, print_exception=False)


def notice_of_error(error: ValueError) -> str:
    """An error as a sentence on the page; the log has the traceback of a user's pruning method."""
    if isinstance(error, MethodError):
        logger.error("a pruning method failed", exc_info=error)
    text = " ".join(str(error).split())
    is_name = "_" in text.partition(" ")[0]
    return notice_html(text if is_name else text[:1].upper() + text[1:])


def _control(
    field: Field, service: Service, begin: Settings, elem_id: str, is_short: bool = False
) -> gr.components.Component:
    name, value, metadata = field.name, getattr(begin, field.name), field.metadata
    words = {"label": metadata.get("label", name), "info": metadata["help"], "elem_id": elem_id}
    words["visible"] = _is_offered(name, service, begin.pruning_method)
    words["elem_classes"] = [] if name == "visual_token_num" or is_short else ["folded"]  # on a phone
    if is_short:
        words |= {"info": None} | ({"label": "T"} if name == "visual_token_num" else {})
    if name == "pruning_method":
        choices = [(UNPRUNED if method == NONE else method_label(method), method) for method in service.methods]
        return gr.Dropdown(choices, value=value, **words | {"info": None if is_short else method_summary(value)})
    if metadata.get("choices"):
        return gr.Dropdown(list(metadata["choices"]), value=value, **words)
    if name == "visual_token_num":
        is_read = _reads_budget(begin.pruning_method)
        return gr.Slider(1, service.most_tokens(begin.budget_per), value, step=1, interactive=is_read, **words)
    if "most" in metadata:
        is_read = name != "important_ratio" or load_method(begin.pruning_method).reads_ratio
        return gr.Slider(metadata["least"], metadata["most"], value, step=0.05, interactive=is_read, **words)
    return gr.Number(value, precision=0 if metadata["kind"] is int else None, **words)


def _reads_budget(method: str) -> bool:
    return method != NONE and not load_method(method).blind


def _is_offered(name: str, service: Service, chosen: str) -> bool:
    if service.server is not None:
        return service.offers(name)
    method = load_method(chosen)
    offered = {"pruning_seed": method.draws_at_random, "budget_per": service.model.cuts_crops}
    return (offered | {"positions": not method.in_decoder}).get(name, True)


def fitting_controls(service: Service, *values: object) -> list:
    """How the controls change with the settings that were chosen, in the order of the fields."""
    chosen = dict(zip(NAMES, values, strict=True))
    updates, is_read = dict.fromkeys(NAMES, KEEP), True
    if chosen["pruning_method"] in service.methods:  # a visitor who names another file or module must not have it run
        with suppress(PruningError):  # of a user's file; the drawing says what is wrong
            method = load_method(chosen["pruning_method"])
            updates["pruning_method"] = gr.update(info=method_summary(chosen["pruning_method"]))
            is_read = _reads_budget(chosen["pruning_method"])
            updates["important_ratio"] = gr.update(interactive=method.reads_ratio)
            updates["pruning_seed"] = gr.update(visible=method.draws_at_random)
            updates["positions"] = gr.update(visible=not method.in_decoder)
    updates["visual_token_num"] = gr.update(maximum=service.most_tokens(chosen["budget_per"]), interactive=is_read)
    return list(updates.values())
