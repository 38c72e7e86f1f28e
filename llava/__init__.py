"""LLaVA with VisPruner inside: fewer visual tokens, no training.

from llava import Engine
engine = Engine.from_pretrained("liuhaotian/llava-v1.5-7b", visual_token_num=64)
print(engine.ask("What is unusual about this image?", "picture.jpg"))
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava.eval import evaluate
    from llava.inference import Engine, Session
    from llava.integrations.transformers import prune, pruned, unprune
    from llava.model import LlavaLlamaForCausalLM
    from llava.pruning import Settings, list_methods

__version__ = "0.1.0"
__all__ = [
    "Engine",
    "LlavaLlamaForCausalLM",
    "Session",
    "Settings",
    "evaluate",
    "list_methods",
    "prune",
    "pruned",
    "unprune",
]
_HOMES = {
    "Engine": "inference",
    "Session": "inference",
    "Settings": "pruning",
    "evaluate": "eval",
    "list_methods": "pruning",
    "prune": "integrations.transformers",
    "pruned": "integrations.transformers",
    "unprune": "integrations.transformers",
}


def __getattr__(name: str):
    """Give a name on first use: importing what it needs takes seconds."""
    home = _HOMES.get(name) or ("model" if name.startswith("Llava") else None)
    if home is None:
        raise AttributeError(f"module 'llava' has no attribute {name!r}")
    return getattr(import_module(f"llava.{home}"), name)
