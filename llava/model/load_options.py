"""Keywords that clients of LLaVA, LLaVA-NeXT and transformers load models with: taken, or refused by name."""

from dataclasses import dataclass, field
from typing import Any

from llava.errors import InputError

# Keywords that cannot be followed, and why.
_REFUSED = {
    "max_memory": "a device_map says which layers go where",
    "offload_folder": "weights are not offloaded: load in 8 or 4 bits, or spread the model over GPUs",
    "offload_state_dict": "weights are not offloaded: load in 8 or 4 bits, or spread the model over GPUs",
    "trust_remote_code": "no code that comes with a checkpoint is run, its family is part of this package",
}
_SAME_EITHER_WAY = ("low_cpu_mem_usage", "use_safetensors")  # transformers 5 knows one way to load, this package too


@dataclass(frozen=True)
class LoadOptions:
    """What of a client's keywords decides how a model is loaded.

    Attributes:
        dtype: of the weights: a torch.dtype or its name, "auto" for the checkpoint's own, None for the device's.
        quantization_config: bitsandbytes' for the language model.
        cache_dir: where files of a hub id are kept; None for the library's own place.
        overrides: config keys and their values.
    """

    dtype: Any = None
    quantization_config: Any = None
    cache_dir: str | None = None
    overrides: dict = field(default_factory=dict)

    @classmethod
    def from_keywords(cls, keywords: dict) -> "LoadOptions":
        """Sort out `keywords`: what is not named here is the key of a config. Raises InputError for what is refused."""
        overrides = dict(keywords)
        for name, why in _REFUSED.items():
            if overrides.pop(name, None):
                raise InputError(f"{name} is not supported: {why}")
        for name in _SAME_EITHER_WAY:
            overrides.pop(name, None)
        if overrides.pop("multimodal", True) is False:
            raise InputError("multimodal=False is not supported: this package loads models with a vision tower")
        given = [value for name in ("torch_dtype", "dtype") if (value := overrides.pop(name, None)) is not None]
        if len({str(value).removeprefix("torch.") for value in given}) > 1:
            raise InputError(f"torch_dtype {given[0]} and dtype {given[1]} mean the same: give one")
        quantization, cache_dir = overrides.pop("quantization_config", None), overrides.pop("cache_dir", None)
        for name in ("customized_config", "overwrite_config"):
            values = overrides.pop(name, None) or {}
            if not isinstance(values, dict):
                raise InputError(f"{name} must be a dict of config keys, got {values!r}")
            overrides |= values
        return cls(given[0] if given else None, quantization, cache_dir, overrides)
