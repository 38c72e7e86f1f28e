"""The page's controls for the pruning settings: one for each field of `PruningSettings`, as its type and value say."""

from __future__ import annotations

from dataclasses import Field, fields

import gradio as gr

from llava.pruning import PruningSettings, method_label
from llava.pruning.base import BUDGETS_PER
from llava.serve.page.selection_view import reads_ratio, reads_seed
from llava.serve.page.service import Service
from llava.serve.page.vllm_server import SETTINGS

SETTING_NAMES = tuple(field.name for field in fields(PruningSettings))
_WORDS = {
    "visual_token_num": ("Visual tokens (T)", "kept of each crop, or of all together"),
    "important_ratio": ("important_ratio", "share of T chosen by importance"),
    "pruning_method": ("Method", None),
    "pruning_seed": ("Seed", None),
    "budget_per": ("T counts per", None),
}


def setting_controls(service: Service) -> dict[str, gr.components.Component]:
    """A control for each setting, in the order of the fields; those that cannot be chosen here are hidden."""
    return {field.name: _control(field, service) for field in fields(PruningSettings)}


def _control(field: Field, service: Service) -> gr.components.Component:
    name, value = field.name, getattr(service.settings, field.name)
    label, info = _WORDS.get(name, (name, None))
    words = {"label": label, "info": info, "elem_id": name, "visible": _is_offered(name, service)}
    choices = {"pruning_method": [(method_label(method), method) for method in service.methods]}
    choices["budget_per"] = list(BUDGETS_PER)
    if name in choices:
        return gr.Dropdown(choices[name], value=value, **words)
    if name == "important_ratio":
        return gr.Slider(0, 1, value, step=0.05, interactive=reads_ratio(service.settings.pruning_method), **words)
    if name == "visual_token_num":
        return gr.Slider(1, service.most_tokens(service.settings.budget_per), value, step=1, **words)
    return gr.Number(value, precision=0, **words)


def _is_offered(name: str, service: Service) -> bool:
    if service.server is not None:
        return name in SETTINGS
    if name == "pruning_seed":
        return reads_seed(service.settings.pruning_method)
    return name != "budget_per" or service.model.cuts_crops


def fitting_controls(service: Service, *values: object) -> list:
    """How the controls change with the settings that were chosen, in the order of the fields."""
    chosen = dict(zip(SETTING_NAMES, values, strict=True))
    updates = dict.fromkeys(SETTING_NAMES, gr.skip())
    updates["important_ratio"] = gr.update(interactive=reads_ratio(chosen["pruning_method"]))
    updates["pruning_seed"] = gr.update(visible=reads_seed(chosen["pruning_method"]))
    updates["visual_token_num"] = gr.update(maximum=service.most_tokens(chosen["budget_per"]))
    return list(updates.values())
