"""Where a model's weights go and in what form: device, dtype, attention kernel, quantization."""

import logging
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from transformers import BitsAndBytesConfig

from llava.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Where weights go and in what form.

    Attributes:
        device_map: as in accelerate.
        dtype: the weights' dtype; None for the checkpoint's own.
        attn_implementation: as in transformers, for language model and vision tower; its own choice if None.
        quantization_config: bitsandbytes' for the language model.
    """

    device_map: str | dict
    dtype: torch.dtype | None
    attn_implementation: str | None = None
    quantization_config: BitsAndBytesConfig | None = None

    @classmethod
    def from_options(
        cls,
        device_map: str | dict | None = "auto",
        device: str = "cuda",
        dtype: str | torch.dtype | None = None,
        attn_implementation: str | None = None,
        quantization_config: BitsAndBytesConfig | None = None,
        load_8bit: bool = False,
        load_4bit: bool = False,
    ) -> "Placement":
        """What the options of `load_pretrained_model` ask for. Raises InputError for those that cannot be."""
        if quantization_config is not None and (load_8bit or load_4bit):
            raise InputError("choose one of quantization_config, load_8bit and load_4bit")
        require_extras(attn_implementation, load_8bit or quantization_config is not None, load_4bit)
        if device_map is None and torch.cuda.is_available() and dtype is None:
            dtype = torch.float16  # on the CPU for now, as upstream: a client moves it by `model.cuda()`
        device_map = _find_device_map({"": "cpu"} if device_map is None else device_map, device)
        dtype = find_dtype(dtype, device_map)
        if quantization_config is None:
            quantization_config = _quantization(load_8bit, load_4bit, dtype or torch.float16)
        return cls(device_map, dtype, attn_implementation, quantization_config)


def require_extras(attn_implementation: str | None, load_8bit: bool, load_4bit: bool) -> None:
    """Raise InputError, naming the extra, for an option whose package is not installed."""
    if load_8bit and load_4bit:
        raise InputError("choose one of load_8bit and load_4bit")
    if (load_8bit or load_4bit) and not find_spec("bitsandbytes"):
        raise InputError("loading in 4 or 8 bits needs bitsandbytes: pip install -e '.[quant]'")
    if attn_implementation == "flash_attention_2" and not find_spec("flash_attn"):
        raise InputError("flash_attention_2 needs flash-attn: pip install -e '.[flash-attn]'")


def _find_device_map(device_map: str | dict, device: str) -> str | dict:
    """The device map that `device_map` and `device` ask for, or the CPU where they ask for a GPU that is missing."""
    try:
        if torch.device(device) != torch.device("cuda"):
            device_map = {"": device}
    except RuntimeError:
        raise InputError(f"no such device: {device}") from None
    wanted = device_map.values() if isinstance(device_map, dict) else [device_map]
    if all(str(place) == "cpu" for place in wanted):
        return {"": "cpu"}
    for_gpu = any(isinstance(place, int) or str(place).startswith(("auto", "balanced", "cuda")) for place in wanted)
    if torch.cuda.is_available() or not for_gpu:
        return device_map
    logger.warning("no GPU is available: the model runs on the CPU")
    return {"": "cpu"}


def find_dtype(torch_dtype: str | torch.dtype | None, device_map: str | dict) -> torch.dtype | None:
    """The dtype of this name, or that of the device if None; None for "auto", the checkpoint's own.

    Raises InputError for one that is not floating.
    """
    if torch_dtype == "auto":
        return None
    if torch_dtype is None:
        return torch.float32 if device_map == {"": "cpu"} else torch.float16
    dtype = getattr(torch, torch_dtype, None) if isinstance(torch_dtype, str) else torch_dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"torch_dtype must be a floating dtype such as float16, got {torch_dtype!r}")
    return dtype


def _quantization(load_8bit: bool, load_4bit: bool, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Upstream's settings; projector and output layer stay as they are."""
    skip = ["model.mm_projector", "lm_head"]
    if load_8bit:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    if load_4bit:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
            llm_int8_skip_modules=skip,
        )
    return None
