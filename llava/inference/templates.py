"""Prompt templates by name, for callers that hold a name and no loaded model."""

from llava.checkpoints.folders import get_model_name_from_path
from llava.conversation import Conversation
from llava.model.template import Template, find_template, named_template


def open_conversation(conv_mode: str | Template) -> Conversation:
    return named_template(conv_mode).conversation()


def choose_conv_mode(model_name, model_type, wanted=None, model_path=None):
    return find_template(model_name, model_type, wanted, model_path, as_upstream=True).name


def conv_mode_for(model, wanted: str | Template | None = None) -> Template:
    """The template of a loaded model's published figures, or the one that is wanted."""
    path = str(model.config.name_or_path)
    return find_template(get_model_name_from_path(path), model.config.model_type, wanted, path)
