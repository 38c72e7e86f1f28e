"""No pruning: every patch becomes a visual token."""

from llava.pruning.base import PruningSettings, Views, VisualTokens


def select(views: Views, settings: PruningSettings) -> VisualTokens:
    return views.keep_all()
