"""The processor of a model, where something has to be read from its prompts."""

import functools

from transformers import AutoProcessor, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llava.errors import InputError


def processor_of(model: PreTrainedModel, why: str):
    """The model's `processor`, where it was assigned, or else that of the folder or hub id that the model is from.

    Raises InputError where there is none; it says `why` one is needed.
    """
    if getattr(model, "processor", None) is not None:
        return model.processor
    if (found := _load(model.name_or_path) if model.name_or_path else None) is None:
        name = model.name_or_path or "the model"
        raise InputError(f"{why}, and {name} has no processor: assign the model's `processor` first")
    return found


@functools.lru_cache(maxsize=4)
def _load(path: str):
    """The processor of a checkpoint, or its tokenizer where a processor cannot be made; None if that cannot either."""
    for kind in (AutoProcessor, AutoTokenizer):
        try:
            return kind.from_pretrained(path)
        except (OSError, ValueError, ImportError):  # not there, or of a package that is not installed
            continue
    return None


def tokenizer_of(processor) -> PreTrainedTokenizerBase:
    """That of a processor, or itself."""
    return getattr(processor, "tokenizer", processor)
