"""`Template`: how a checkpoint wants to be asked, found once when it is loaded.

A template is one of `llava.conversation`, or the chat template of the checkpoint's tokenizer.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from llava.checkpoints.folders import find_folder
from llava.conversation import CHAT_TEMPLATE, Conversation, check_conv_mode, get_conversation
from llava.errors import InputError, one_line
from llava.files import read_json_object, read_text

PUBLISHED = {"llava_v1": "vicuna_v1"}  # upstream's default -> the template of the published figures
_OF_UNKNOWN_TEMPLATE = re.compile(r"phi-?[1-4]|tinyllama|stablelm|zephyr|orca")  # that no LLaVA template fits
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Template:
    """How a conversation becomes the text of a prompt.

    Attributes:
        name: as `--conv-mode` has it; `chat_template` is the tokenizer's own.
        empty: the conversation before anything was said.
    """

    name: str
    empty: Conversation

    def conversation(self) -> Conversation:
        """A new conversation."""
        return self.empty.copy()

    def prompt(self, message: str, answer: str | None = None) -> str:
        """The prompt that asks one thing, up to the answer or with it."""
        conversation = self.conversation()
        conversation.append_message(conversation.roles[0], message)
        conversation.append_message(conversation.roles[1], answer)
        return conversation.get_prompt()


def named_template(name: str | Template) -> Template:
    """The template of this name in `conv_templates`; a `Template` as it is. Raises InputError for an unknown name."""
    return name if isinstance(name, Template) else Template(name, get_conversation(name))


def find_template(
    model_name: str,
    model_type: str | None,
    wanted: str | Template | None = None,
    model_path: str | Path | None = None,
    as_upstream: bool = False,
) -> Template:
    """The template of a checkpoint, or the one that is `wanted`.

    Args:
        model_name, model_type: of the checkpoint: its name, and what its config says.
        wanted: a name, or `chat_template` for that of the tokenizer.
        model_path: where the checkpoint is, for the chat template of its tokenizer.
        as_upstream: by default the template of upstream's commands; otherwise that of the published figures, which
            differs from it for LLaVA-1.5 on Vicuna ("curious human" and "curious user").

    A checkpoint on a language model that no template is known for has the chat template of its tokenizer or, without
    one, a guess and a warning. A wanted template with other roles or separators than the checkpoint's is taken with a
    warning.

    Raises InputError for an unknown name, and for a wanted chat template that is not there.
    """
    from llava.model.families import conv_mode_of

    if isinstance(wanted, Template):
        return wanted
    trained = conv_mode_of(model_name, model_type)
    if wanted is None:
        default = trained if as_upstream else PUBLISHED.get(trained, trained)
        if not _OF_UNKNOWN_TEMPLATE.search(model_name.lower()):
            return named_template(default)
        if model_path and (own := chat_template_of(find_folder(str(model_path), "checkpoint"))):
            return own
        logger.warning("the template of %s is not known, it is asked in %s: see --conv-mode", model_name, default)
        return named_template(default)
    check_conv_mode(wanted)
    if wanted == CHAT_TEMPLATE:
        folder = find_folder(str(model_path), "checkpoint")
        if (own := chat_template_of(folder)) is None:
            raise InputError(f"the tokenizer in {folder} has no chat template: see --conv-mode")
        return own
    template, usual = named_template(wanted), get_conversation(trained)
    if any(getattr(template.empty, part) != getattr(usual, part) for part in ("roles", "sep_style", "sep", "sep2")):
        logger.warning("conv-mode %s is not the template of %s, which is %s", wanted, model_name, trained)
    return template


def chat_template_of(folder: Path) -> Template | None:
    """The chat template of a checkpoint's tokenizer: a file of its own, or in the tokenizer's settings; else None."""
    path, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = read_json_object(path, "tokenizer config") if path.exists() else {}
    text = read_text(file, "chat template") if file.exists() else settings.get("chat_template")
    if isinstance(text, list):
        named = {entry.get("name"): entry.get("template") for entry in text if isinstance(entry, dict)}
        text = named.get("default")
    if not isinstance(text, str):
        return None
    special = {name: _text(settings.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    special = {name: token for name, token in special.items() if token is not None}
    roles = ("user", "assistant")
    empty = ChatTemplateConversation("", roles, [], 0, version=CHAT_TEMPLATE, template=text, special_tokens=special)
    return Template(CHAT_TEMPLATE, empty)


def _text(token: str | dict | None) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


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

        said = [{"role": role, "content": message} for role, message in self.messages if message is not None]
        goes_on = bool(self.messages) and self.messages[-1][1] is None
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
