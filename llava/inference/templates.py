"""Which prompt template a checkpoint is asked in: one of `llava.conversation`, or its tokenizer's own chat template."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from llava.conversation import CHAT_TEMPLATE, Conversation, check_conv_mode, get_conversation
from llava.model.folders import find_folder
from llava.utils import InputError, get_model_name_from_path, one_line, read_json_object, read_text

_OF_UNKNOWN_TEMPLATE = re.compile(r"phi-?[1-4]|tinyllama|stablelm|zephyr|orca")  # that no LLaVA template fits
logger = logging.getLogger(__name__)


@dataclass
class ChatTemplateConversation(Conversation):
    """A conversation in a tokenizer's chat template.

    Attributes:
        template: Jinja, as transformers takes it.
        special_tokens: the texts that the template may name, such as `bos_token`.
    """

    template: str = ""
    special_tokens: dict[str, str] | None = None

    def get_prompt(self) -> str:
        """The whole conversation. Raises InputError for a template that cannot be followed."""
        from transformers.utils.chat_template_utils import render_jinja_template

        said = [{"role": role, "content": message} for role, message in self.messages if message]
        goes_on = bool(self.messages) and not self.messages[-1][1]
        try:
            texts, _ = render_jinja_template(
                conversations=[said],
                chat_template=self.template,
                add_generation_prompt=goes_on,
                **self.special_tokens or {},
            )
        except Exception as error:  # whatever a template makes of the messages
            raise InputError(f"the chat template cannot be followed: {one_line(error)}") from error
        return texts[0]


def open_conversation(conv_mode: str) -> Conversation:
    """A fresh conversation in the template `conv_mode`, as `choose_conv_mode` returns it.

    Raises InputError for an unknown one, and for a checkpoint without a chat template.
    """
    kind, _, path = conv_mode.partition(":")
    if kind != CHAT_TEMPLATE:
        return get_conversation(conv_mode)
    folder = find_folder(path, "checkpoint")
    settings = _tokenizer_settings(folder)
    template = _chat_template(folder, settings)
    if template is None:
        raise InputError(f"the tokenizer in {folder} has no chat template: see --conv-mode")
    special = {name: _text(settings.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    special = {name: text for name, text in special.items() if text is not None}
    return ChatTemplateConversation(
        "", ("user", "assistant"), [], 0, version=CHAT_TEMPLATE, template=template, special_tokens=special
    )


def _tokenizer_settings(folder: Path) -> dict:
    path = folder / "tokenizer_config.json"
    return read_json_object(path, "tokenizer config") if path.exists() else {}


def _chat_template(folder: Path, settings: dict) -> str | None:
    """The chat template of a checkpoint's tokenizer: a file of its own, or in the tokenizer's settings; else None."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return read_text(file, "chat template")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _text(token: str | dict | None) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def choose_conv_mode(
    model_name: str, model_type: str | None, wanted: str | None = None, model_path: str | None = None
) -> str:
    """The prompt template of a checkpoint, by its name and its config's `model_type`, or the one that is `wanted`.

    A checkpoint on a language model that no template is known for is asked in the chat template of its tokenizer, if
    `model_path` has one, or else with a warning. `chat_template` as a wish comes back with the path behind a colon. A
    wanted template with other roles or separators than the checkpoint's is used, with a warning.
    Raises InputError for an unknown one.
    """
    from llava.model.families import conv_mode_of

    own = f"{CHAT_TEMPLATE}:{model_path}"
    trained = conv_mode_of(model_name, model_type)
    if wanted is None:
        if not _OF_UNKNOWN_TEMPLATE.search(model_name.lower()):
            return trained
        if model_path:
            folder = find_folder(model_path, "checkpoint")
            if _chat_template(folder, _tokenizer_settings(folder)) is not None:
                return own
        logger.warning("the template of %s is not known, it is asked in %s: see --conv-mode", model_name, trained)
        return trained
    check_conv_mode(wanted)
    if wanted.startswith(CHAT_TEMPLATE):
        return own if wanted == CHAT_TEMPLATE else wanted
    first, second = get_conversation(wanted), get_conversation(trained)
    if any(getattr(first, part) != getattr(second, part) for part in ("roles", "sep_style", "sep", "sep2")):
        logger.warning("conv-mode %s is not the template of %s, which is %s", wanted, model_name, trained)
    return wanted


def conv_mode_for(model, wanted: str | None = None) -> str:
    """`choose_conv_mode` for a loaded model."""
    path = model.config.name_or_path
    return choose_conv_mode(get_model_name_from_path(path), model.config.model_type, wanted, path)
