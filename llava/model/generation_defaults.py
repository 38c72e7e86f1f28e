"""Generation options of a call, of a `GenerationConfig` that comes with it, and of the checkpoint."""

from transformers import GenerationConfig, PreTrainedModel

from llava.errors import InputError

_NO_OPTIONS = ("transformers_version", "generation_config")


def _values(config: GenerationConfig) -> dict:
    """The options that a generation config sets."""
    values = {name: value for name, value in vars(config).items() if value is not None and not name.startswith("_")}
    return {name: value for name, value in values.items() if name not in _NO_OPTIONS}


def spell_out(options: dict) -> dict:
    """Options of a call with those of its `generation_config` one by one; what the call says itself goes first.

    Raises InputError for a `generation_config` that is none.
    """
    config = options.get("generation_config")
    if not isinstance(config, GenerationConfig | None):
        raise InputError(f"generation_config must be transformers' GenerationConfig, not {type(config).__name__}")
    given = {name: value for name, value in options.items() if name != "generation_config"}
    return given if config is None else _values(config) | given


def all_options(model: PreTrainedModel, given: dict) -> dict:
    """What a call and, where that says nothing, the checkpoint's generation config decide."""
    return _values(model.generation_config) | {name: value for name, value in given.items() if value is not None}
