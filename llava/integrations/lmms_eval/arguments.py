"""What users may write as `--model_args`, checked before weights are loaded."""

import inspect

import torch

from llava.conversation import check_conv_mode
from llava.errors import InputError

DTYPES = ("float16", "bfloat16", "float32")


def refuse_unknown(model: str, made_by: type, unknown: dict) -> None:
    """Raise InputError, naming the first of these model arguments, if there are any that `made_by` does not take."""
    if unknown:
        known = [name for name, p in inspect.signature(made_by).parameters.items() if p.kind is not p.VAR_KEYWORD]
        raise InputError(f"{model} has no model argument {next(iter(unknown))!r}: it takes {', '.join(known)}")


def check_conv_template(value: str | None) -> None:
    """Raise InputError unless this is None or a prompt template."""
    if value is None:
        return
    try:
        check_conv_mode(str(value))
    except InputError as error:
        raise InputError(f"conv_template: {error}") from error


def read_batch_size(value: int | str | None) -> int | None:
    """Requests answered at once; None, for as many as memory allows, if it is None or "auto".

    Raises InputError for anything but an integer of at least 1.
    """
    if value in (None, "auto"):
        return None
    if not str(value).isdecimal() or int(value) < 1:
        raise InputError(f'batch_size must be an integer of at least 1 or "auto", got {value!r}')
    return int(value)


def read_dtype(value: str | None) -> torch.dtype | None:
    """The weights' dtype; None, for that which suits the device, if it is None. Raises InputError for another name."""
    if value is None:
        return None
    if value not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {value!r}")
    return getattr(torch, value)
