"""The place where `select_visual_tokens` used to be; the method is in `llava.pruning.methods.vispruner`."""

from llava.pruning.methods.vispruner import select_visual_tokens

__all__ = ["select_visual_tokens"]
