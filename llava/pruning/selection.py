"""The step between tower and projector: a method chooses visual tokens."""

from llava.pruning.base import IMAGE, MergedTokens, PruningSettings, Views, VisualTokens
from llava.pruning.errors import PruningError
from llava.pruning.registry import load_method


def select(views: Views, settings: PruningSettings) -> VisualTokens | MergedTokens:
    """The visual tokens that the method of `settings` makes of what the tower saw; all where there is nothing to prune.

    With a budget for each image, the crops must be those of one image.

    Raises PruningError if the method needs a view that the tower does not have, or returns something else.
    """
    if not settings.prunes_before_decoder:
        return views.keep_all()
    crops, patches, _ = views.features.shape
    is_for_all_crops = settings.budget_per == IMAGE and crops > 1
    if settings.visual_token_num >= (crops * patches if is_for_all_crops else patches):
        return views.keep_all()
    if is_for_all_crops:
        views = views.together()
    chosen = load_method(settings.pruning_method).select(views, settings)
    if not isinstance(chosen, VisualTokens | MergedTokens):
        raise PruningError(
            f"the pruning method {settings.pruning_method} must return VisualTokens or MergedTokens, "
            f"not {type(chosen).__name__}"
        )
    return chosen
