"""The former place of what a method takes and returns, for users' methods that import it from here."""

from llava.pruning.settings import Settings as PruningSettings
from llava.pruning.tokens import MergedTokens, VisualTokens, highest, keep_patches
from llava.pruning.views import Views

__all__ = ["MergedTokens", "PruningSettings", "Views", "VisualTokens", "highest", "keep_patches"]
