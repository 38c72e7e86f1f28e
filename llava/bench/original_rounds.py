"""The selection as the original code computes it, for comparison: `--pruning_method llava.bench.original_rounds`.

Zhang et al., arXiv 2412.01818, section 3, in float32, both halves of the list multiplied anew in each round.
"""

from llava.bench.selection_cost import transcription
from llava.pruning import Settings, Views, VisualTokens


def select(views: Views, settings: Settings) -> VisualTokens:
    features, importance = views.features.float(), views.importance
    return views.keep(transcription(features, importance, settings.visual_token_num, settings.important_ratio))
