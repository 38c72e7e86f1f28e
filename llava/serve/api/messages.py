"""The messages of a chat request -> a prompt in the model's template, and the addresses of its pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, SeparatorStyle
from llava.errors import InputError
from llava.inference.request import check_placeholders, mark_images
from llava.model.template import ChatTemplateConversation
from llava.serve.api.schema import ChatError, Message, dotted

_SYSTEM = ("system", "developer")


@dataclass(frozen=True)
class Layout:
    """Lays messages into a model's template.

    Attributes:
        config: the model's.
        template: an empty conversation.
        allow_urls: whether pictures may be http(s) URLs.
    """

    config: object
    template: Conversation
    allow_urls: bool

    def lay_out(self, messages: list[Message]) -> tuple[str, tuple[str, ...]]:
        """The prompt, and the addresses of its pictures in order.

        Raises ChatError, naming the message, for what has no place in the template or cannot be shown.
        """
        conversation, pictures = self.template.copy(), []
        has_system = messages[0].role in _SYSTEM
        for i, message in enumerate(messages):
            urls = self._urls(message, i)
            if i == 0 and has_system:
                _set_system(conversation, message.text)
                continue
            turn = (i - has_system) % 2
            role = ("user", "assistant")[turn]
            if message.role != role:
                raise ChatError(
                    f"messages[{i}].role must be {role!r}: after one system message at most, user and assistant take "
                    "turns, the user first and last",
                    f"messages[{i}].role",
                )
            conversation.append_message(conversation.roles[turn], self._turn(message, len(urls), i))
            pictures += urls
        if messages[-1].role != "user":
            raise ChatError("messages must end with one of the user", "messages")
        conversation.append_message(conversation.roles[1], None)
        return conversation.get_prompt(), tuple(pictures)

    def _turn(self, message: Message, pictures: int, i: int) -> str:
        """The text of one turn, a line for each part; `<image>` in the text says itself where the pictures are.

        Pictures after all of the text are put in front, as the models were trained and `Session` does it.
        """
        text, where = message.text, f"messages[{i}].content"
        if message.role == "assistant":  # these letters would stand for one more picture
            return text.replace(DEFAULT_IMAGE_TOKEN, "< image >")
        if not text.strip() and not pictures:
            raise ChatError(f"{where}: the message is empty", where)
        if DEFAULT_IMAGE_TOKEN not in text:
            lines = [DEFAULT_IMAGE_TOKEN if part.text is None else part.text for part in message.content]
            if lines[-pictures:] == [DEFAULT_IMAGE_TOKEN] * pictures:
                lines = lines[-pictures:] + (lines[:-pictures] or [""])
            text = "\n".join(lines)
        try:
            return mark_images(text, pictures, self.config, where)
        except InputError as error:
            raise ChatError(str(error), where) from error

    def _urls(self, message: Message, i: int) -> list[str]:
        """The addresses of a message's pictures."""
        urls = []
        for j, part in enumerate(message.content):
            if part.image_url is None:
                continue
            url, where = part.image_url.url, dotted("messages", i, "content", j)
            if message.role != "user":
                raise ChatError(f"{where}: only messages of the user may have pictures", where)
            # Whatever else is taken for a file further on, and the server's files are nobody's business.
            if not re.match("data:|https?://", url, re.IGNORECASE):
                kinds = "data:, http and https URLs" if self.allow_urls else "data: URLs"
                raise ChatError(f"{where}: pictures are given as {kinds}", where)
            if not self.allow_urls and not re.match("data:", url, re.IGNORECASE):
                raise ChatError(f"{where}: this server fetches no remote pictures: send a data: URL", where)
            urls.append(url)
        return urls


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
