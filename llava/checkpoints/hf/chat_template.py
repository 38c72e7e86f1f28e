"""A prompt template of `llava.conversation` as a chat template of transformers, for `apply_chat_template`."""

import json

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation

_JINJA = """\
{%- macro said(message) -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ IMAGE }}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message['role'] == ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{ (FIRST if loop.first else QUESTION if loop.index0 % 2 == 0 else ANSWER) + said(message) }}
{%- else -%}
{{ raise_exception('user and assistant must take turns, the user first; the system message is part of the template') }}
{%- endif -%}
{%- endfor -%}
{{ OPENING if add_generation_prompt else ANSWERED if messages | length % 2 == 0 else ASKED }}"""


def to_chat_template(conversation: Conversation) -> str:
    """Jinja that writes what this conversation's `get_prompt` writes, images of a message in front of its text."""

    def prompt(*turns: str | None) -> str:
        said = conversation.copy()
        for i, turn in enumerate(turns):
            said.append_message(said.roles[i % 2], turn)
        return said.get_prompt()

    one, two, three = ("\x00one", "\x00two", "\x00three")  # texts that no template has
    first, rest = prompt(one, two, three, None).split(one)
    answer, rest = rest.split(two)
    question, opening = rest.split(three)
    pieces = {
        "IMAGE": f"{DEFAULT_IMAGE_TOKEN}\n",
        "FIRST": first,
        "ANSWER": answer,
        "QUESTION": question,
        "OPENING": opening,
        "ANSWERED": prompt(one, two).split(two)[1],
        "ASKED": prompt(one).split(one)[1],
    }
    return "".join(f"{{%- set {name} = {json.dumps(text)} -%}}\n" for name, text in pieces.items()) + _JINJA
