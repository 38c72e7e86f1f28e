"""The step between tower and projector: a method chooses visual tokens."""

from llava.pruning.base import MergedTokens, PruningSettings, Views, VisualTokens
from llava.pruning.errors import PruningError
from llava.pruning.registry import load_method


def select(views: Views, settings: PruningSettings) -> VisualTokens | MergedTokens:
    """The visual tokens that the method of `settings` makes of what the tower saw; all where there is nothing to prune.

    Raises PruningError if the method needs a view that the tower does not have, or returns something else.
    """
    if not settings.prunes_before_decoder or settings.visual_token_num >= views.features.shape[1]:
        return views.keep_all()
    chosen = load_method(settings.pruning_method).select(views, settings)
    if not isinstance(chosen, VisualTokens | MergedTokens):
        raise PruningError(
            f"the pruning method {settings.pruning_method} must return VisualTokens or MergedTokens, "
            f"not {type(chosen).__name__}"
        )
    return chosen
