"""The page's controls for the pruning settings: one for each field of `Settings`, as that describes itself."""

from __future__ import annotations

from dataclasses import Field, fields

import gradio as gr

from llava.pruning import Settings, load_method, method_label
from llava.serve.page.service import Service
from llava.serve.page.vllm_server import SETTINGS

_LABELS = {"visual_token_num": "Visual tokens (T)", "pruning_method": "Method"}  # of the others the name
_INFO = {"visual_token_num": "kept of each crop", "pruning_method": None}  # of the others the help of the command line


def setting_controls(service: Service) -> dict[str, gr.components.Component]:
    """A control for each setting, in the order of the fields; those that change nothing here are hidden."""
    return {own.name: _control(own, service) for own in fields(Settings)}


def _control(own: Field, service: Service) -> gr.components.Component:
    name, value, facts = own.name, getattr(service.settings, own.name), own.metadata
    words = {"label": _LABELS.get(name, name), "info": _INFO.get(name, facts["help"]), "elem_id": name}
    words["visible"] = _is_offered(name, service)
    if name == "pruning_method":
        return gr.Dropdown([(method_label(method), method) for method in service.methods], value=value, **words)
    if "choices" in facts:
        return gr.Dropdown(list(facts["choices"]), value=value, **words)
    if name == "visual_token_num":
        return gr.Slider(1, service.most_tokens(service.settings.budget_per), value, step=1, **words)
    if facts["kind"] is float and "most" in facts:
        is_read = name != "important_ratio" or service.settings.method.reads_ratio
        return gr.Slider(facts["least"], facts["most"], value, step=0.05, interactive=is_read, **words)
    return gr.Number(value, precision=0 if facts["kind"] is int else None, **words)


def _is_offered(name: str, service: Service) -> bool:
    if service.server is not None:
        return name in SETTINGS
    if name == "pruning_seed":
        return service.settings.method.draws_at_random
    return name != "budget_per" or service.model.cuts_crops


def fitting_controls(service: Service, *values: object) -> list:
    """How the controls change with the settings that were chosen, in the order of the fields."""
    chosen = dict(zip((own.name for own in fields(Settings)), values, strict=True))
    updates = dict.fromkeys(chosen, gr.skip())
    if chosen["pruning_method"] in service.methods:
        method = load_method(chosen["pruning_method"])
        updates["important_ratio"] = gr.update(interactive=method.reads_ratio)
        updates["pruning_seed"] = gr.update(visible=method.draws_at_random)
    updates["visual_token_num"] = gr.update(maximum=service.most_tokens(chosen["budget_per"]))
    return list(updates.values())
