"""The page's controls for the pruning settings: one for each field of `Settings`, as its type and value say."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import Field, fields

import gradio as gr

from llava.pruning import PruningError, Settings, load_method, method_label
from llava.pruning.method import method_summary
from llava.pruning.settings import NAMES
from llava.serve.page.service import Service
from llava.serve.page.vllm_server import SETTINGS


def setting_controls(service: Service) -> dict[str, gr.components.Component]:
    """A control for each setting, in the order of the fields; those that cannot be chosen here are hidden."""
    return {field.name: _control(field, service) for field in fields(Settings)}


def _control(field: Field, service: Service) -> gr.components.Component:
    name, value, metadata = field.name, getattr(service.settings, field.name), field.metadata
    words = {"label": metadata.get("label", name), "info": metadata["help"], "elem_id": name}
    words["visible"] = _is_offered(name, service)
    words["elem_classes"] = [] if name == "visual_token_num" else ["folded"]  # on a phone
    if name == "pruning_method":
        choices = [(method_label(method), method) for method in service.methods]
        return gr.Dropdown(choices, value=value, **words | {"info": method_summary(value)})
    if metadata.get("choices"):
        return gr.Dropdown(list(metadata["choices"]), value=value, **words)
    if name == "visual_token_num":
        return gr.Slider(1, service.most_tokens(service.settings.budget_per), value, step=1, **words)
    if "most" in metadata:
        is_read = name != "important_ratio" or load_method(service.settings.pruning_method).reads_ratio
        return gr.Slider(metadata["least"], metadata["most"], value, step=0.05, interactive=is_read, **words)
    return gr.Number(value, precision=0 if metadata["kind"] is int else None, **words)


def _is_offered(name: str, service: Service) -> bool:
    if service.server is not None:
        return name in SETTINGS and service.takes_settings
    method = load_method(service.settings.pruning_method)
    offered = {"pruning_seed": method.draws_at_random, "budget_per": service.model.cuts_crops}
    return (offered | {"positions": not method.in_decoder}).get(name, True)


def fitting_controls(service: Service, *values: object) -> list:
    """How the controls change with the settings that were chosen, in the order of the fields."""
    chosen = dict(zip(NAMES, values, strict=True))
    updates = dict.fromkeys(NAMES, gr.skip())
    if chosen["pruning_method"] in service.methods:  # a visitor who names another file or module must not have it run
        with suppress(PruningError):  # of a user's file; the drawing says what is wrong
            method = load_method(chosen["pruning_method"])
            updates["pruning_method"] = gr.update(info=method_summary(chosen["pruning_method"]))
            updates["important_ratio"] = gr.update(interactive=method.reads_ratio)
            updates["pruning_seed"] = gr.update(visible=method.draws_at_random)
            updates["positions"] = gr.update(visible=not method.in_decoder)
    updates["visual_token_num"] = gr.update(maximum=service.most_tokens(chosen["budget_per"]))
    return list(updates.values())
