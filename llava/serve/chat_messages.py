"""The messages of a chat request -> a prompt in the model's own template, and the addresses of its pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, SeparatorStyle
from llava.errors import InputError
from llava.inference.request import check_placeholders, mark_images
from llava.inference.templates import ChatTemplateConversation

_SYSTEM = ("system", "developer")  # the second is OpenAI's newer name
EMPTY = (None, [], {})


class ChatError(InputError):
    """A request that is refused: what OpenAI's error body says of it, and the HTTP status."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class Messages:
    """Lays the messages of requests into a model's template."""

    def __init__(self, config, template: Conversation, allow_urls: bool) -> None:
        """`config` is the model's; `allow_urls` says whether pictures may be http(s) URLs."""
        self.config, self.template, self.allow_urls = config, template, allow_urls

    def lay_out(self, messages: Any) -> tuple[str, tuple[str, ...]]:
        """The messages in the model's template, and the addresses of their pictures, in order."""
        if not isinstance(messages, list) or not messages:
            raise ChatError("messages must be a list of at least one message", "messages")
        conversation, pictures = self.template.copy(), []
        for message, where in zip(messages, _places("messages", messages)):
            _check_message(message, where)
        has_system = messages[0]["role"] in _SYSTEM
        if has_system:
            text, _ = self._content(messages[0], "messages[0]")
            _set_system(conversation, text)
        turns = list(zip(messages, _places("messages", messages)))[has_system:]
        for i, (message, where) in enumerate(turns):
            role = ("user", "assistant")[i % 2]
            if message["role"] != role:
                raise ChatError(
                    f"{where}.role must be {role!r}: after one system message at most, user and assistant take turns, "
                    "the user first and last",
                    f"{where}.role",
                )
            text, urls = self._content(message, where)
            pictures += urls
            conversation.append_message(conversation.roles[i % 2], self._turn(role, text, urls, where))
        if len(turns) % 2 == 0:
            raise ChatError("messages must end with one of the user", "messages")
        conversation.append_message(conversation.roles[1], None)
        return conversation.get_prompt(), tuple(pictures)

    def _turn(self, role: str, text: str, urls: list[str], where: str) -> str:
        """The text of one turn as `Session` writes it: pictures in front, unless `<image>` in the text places them."""
        if not text.strip() and not urls:
            raise ChatError(f"{where}: the message is empty", f"{where}.content")
        if role == "assistant":  # these letters would stand for one more picture
            return text.replace(DEFAULT_IMAGE_TOKEN, "< image >")
        if DEFAULT_IMAGE_TOKEN not in text:
            text = f"{DEFAULT_IMAGE_TOKEN}\n" * len(urls) + text
        try:
            return mark_images(text, len(urls), self.config, where)
        except InputError as error:
            raise ChatError(str(error), f"{where}.content") from error

    def _content(self, message: dict, where: str) -> tuple[str, list[str]]:
        """The text of a message, one line for each of its text parts, and the addresses of its pictures."""
        content, where = message.get("content"), f"{where}.content"
        if isinstance(content, str):
            return content, []
        if not isinstance(content, list):
            raise ChatError(f"{where} must be a string or a list of parts", where)
        texts, urls = [], []
        for part, place in zip(content, _places(where, content)):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif kind == "image_url" and message["role"] == "user":
                urls.append(self._url(part.get("image_url"), place))
            elif kind == "image_url":
                raise ChatError(f"{place}: only messages of the user may have pictures", place)
            else:
                raise ChatError(f"{place} must be of type 'text' or 'image_url', with its field of that name", place)
            refuse_fields(part, ("type", kind), place)
        return "\n".join(texts), urls

    def _url(self, image_url: Any, where: str) -> str:
        url = image_url.get("url") if isinstance(image_url, dict) else None
        if not isinstance(url, str):
            raise ChatError(f"{where}.image_url must be an object with a text `url`", where)
        if image_url.get("detail") not in (None, "auto"):
            raise ChatError(
                f"{where}: detail can only be 'auto': a picture's tokens are set by visual_token_num", f"{where}.detail"
            )
        refuse_fields(image_url, ("url", "detail"), where)
        if re.match("data:", url, re.IGNORECASE):
            return url
        # Whatever else is taken for a file further on, and the server's files are nobody's business.
        if not re.match("https?://", url, re.IGNORECASE):
            kinds = "data:, http and https URLs" if self.allow_urls else "data: URLs"
            raise ChatError(f"{where}: pictures are given as {kinds}", where)
        if not self.allow_urls:
            raise ChatError(f"{where}: this server fetches no remote pictures: send a data: URL", where)
        return url


def _places(name: str, items: list) -> list[str]:
    return [f"{name}[{i}]" for i in range(len(items))]


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise ChatError(f"{where} must be an object", where)
    if message.get("role") not in ("user", "assistant", *_SYSTEM):
        raise ChatError(f"{where}.role must be system, user or assistant", f"{where}.role")
    refuse_fields(message, ("role", "content"), where)


def _set_system(conversation: Conversation, text: str) -> None:
    """Put the client's system message in place of the template's."""
    try:
        check_placeholders(text, 0, "the system message")
    except InputError as error:
        raise ChatError(str(error), "messages[0].content") from error
    if isinstance(conversation, ChatTemplateConversation):
        conversation.messages.insert(0, ["system", text])
    elif not conversation.system or conversation.sep_style is SeparatorStyle.GEMMA:
        raise ChatError("the prompt template of this model has no system message", "messages[0].role")
    else:
        opening = "<|im_start|>system\n"  # a part of the text in ChatML's templates
        conversation.system = (opening if conversation.system.startswith(opening) else "") + text


def refuse_fields(values: dict, known: Iterable, where: str) -> None:
    """Raise ChatError for a field of an object that is not known and not empty."""
    for name, value in values.items():
        if name not in known and value not in EMPTY:
            raise ChatError(f"{where}.{name} is not offered by this server", f"{where}.{name}")


def is_integer(value: Any) -> bool:
    """Whether a JSON value is an integer: true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)
