"""Which prompt template the page and the HTTP API ask a model in."""

from llava.eval.evaluation import published_conv_mode
from llava.inference.templates import choose_conv_mode
from llava.utils import get_model_name_from_path


def served_conv_mode(model, wanted: str | None = None) -> str:
    """The template that is `wanted`, or else the one that the checkpoint's published figures were made with.

    Raises InputError for an unknown one.
    """
    path = model.config.name_or_path
    known = get_model_name_from_path(path), model.config.model_type
    return choose_conv_mode(*known, wanted, path) if wanted else published_conv_mode(*known, path)
