"""The step between tower and projector: a method chooses visual tokens."""

from llava.pruning.settings import IMAGE, Settings
from llava.pruning.tokens import MergedTokens, VisualTokens
from llava.pruning.views import Views


def select(views: Views, settings: Settings) -> VisualTokens | MergedTokens:
    """The visual tokens that the method of `settings` chooses; all of them if there is nothing to prune, or none.

    With a budget per image, the crops must be of one image.

    Raises PruningError if the method needs a view that the tower does not have, or a user's method fails or returns
    what cannot be used.
    """
    crops, patches, _ = views.features.shape
    of_choice = crops * patches if settings.budget_per == IMAGE else patches
    if settings.is_blind:
        every = views.keep_all()
        return VisualTokens(every.tokens[:, :0], every.patches[:, :0])
    if not settings.prunes_before_decoder or settings.visual_token_num >= of_choice:
        return views.keep_all()
    return settings.method.select(views, settings)
