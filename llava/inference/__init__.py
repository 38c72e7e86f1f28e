"""Asking a loaded model: `Engine` answers requests, `Session` holds a conversation.

`request` has what goes in and comes out, `engine` the batches, `session` the KV cache of a conversation. Names are
imported when first used, since torch takes seconds to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava.inference.engine import Engine
    from llava.inference.request import Completion, Request, make_request
    from llava.inference.session import Session, Turn

_HOMES = {
    "Completion": "request",
    "Engine": "engine",
    "Request": "request",
    "Session": "session",
    "Turn": "session",
    "make_request": "request",
}
__all__ = ["Completion", "Engine", "Request", "Session", "Turn", "make_request"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
