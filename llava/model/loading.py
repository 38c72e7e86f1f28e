"""A checkpoint folder -> a LLaVA model with its vision tower: for `builder` and the classes' `from_pretrained`."""

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llava.constants import IMAGE_ASPECT_RATIOS, PATCH_MERGE_TYPES
from llava.model.checkpoint import is_tuned, load_weights, published_model_type, split_tower
from llava.model.folders import find_folder
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.schemas import GenerationFile, LlavaFile, read_checked
from llava.model.weight_files import StateDict, read_projector, read_weights
from llava.utils import InputError, one_line, parse_grid_pinpoints

_ENDS_OF_TURNS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Where weights go and in what form.

    Attributes:
        device_map: as in accelerate.
        dtype: the weights' dtype.
        attn_implementation: as in transformers, for language model and vision tower; its own choice if None.
        quantization_config: bitsandbytes' for the language model.
    """

    device_map: str | dict
    dtype: torch.dtype
    attn_implementation: str | None = None
    quantization_config: BitsAndBytesConfig | None = None

    @classmethod
    def of(
        cls,
        device_map: str | dict = "auto",
        device: str = "cuda",
        dtype: str | torch.dtype | None = None,
        attn_implementation: str | None = None,
        load_8bit: bool = False,
        load_4bit: bool = False,
    ) -> "Placement":
        """What the options of `load_pretrained_model` ask for. Raises InputError for those that cannot be."""
        require_extras(attn_implementation, load_8bit, load_4bit)
        device_map = _find_device_map(device_map, device)
        dtype = _find_dtype(dtype, device_map)
        return cls(device_map, dtype, attn_implementation, _quantization(load_8bit, load_4bit, dtype))


def from_pretrained(cls: type[PreTrainedModel], name: str | Path, *args, **kwargs) -> PreTrainedModel:
    """`from_pretrained` of a LLaVA class: the model with its vision tower, in eval mode.

    Args:
        cls: the class; the checkpoint must be one of it.
        name: folder or hub id in the published layout.
        kwargs: `device_map`, `dtype` or `torch_dtype`, `attn_implementation`, `quantization_config`, and config keys to
            override. Without a dtype it is transformers' own default, float32; without a device_map, the CPU.

    Raises InputError, naming what is wrong with the checkpoint, and TypeError for another argument.
    """
    if args:
        raise TypeError("from_pretrained() takes the checkpoint alone by position")
    dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None) or torch.float32
    placement = Placement(
        kwargs.pop("device_map", None) or {"": "cpu"},
        _find_dtype(dtype, {}),
        kwargs.pop("attn_implementation", None),
        kwargs.pop("quantization_config", None),
    )
    require_extras(placement.attn_implementation, False, False)
    folder = find_folder(str(name), "checkpoint")
    _require_class(folder, cls)
    config = read_config(folder, cls, kwargs)
    model = load_llava(cls, config, folder, placement)
    set_generation_defaults(model, None, folder)
    return model


def _require_class(folder: Path, cls: type[PreTrainedModel]) -> None:
    """Raise InputError unless the config names the class, or is of its `model_type`."""
    values = read_config_file(folder)
    architecture = (values.get("architectures") or [None])[0]
    model_type = cls.config_class.model_type
    if architecture != cls.__name__ and values.get("model_type") not in (model_type, published_model_type(model_type)):
        raise InputError(f"{folder} is a checkpoint of {architecture}, not of {cls.__name__}")


def read_config(folder: Path, cls: type[PreTrainedModel], overrides: dict) -> PreTrainedConfig:
    """The config of a checkpoint of `cls`, with `overrides`.

    Raises InputError if it cannot be used, TypeError for an override that is no config key.
    """
    config = make_config(cls, read_config_file(folder), folder)
    for name, value in overrides.items():
        if not hasattr(config, name) or callable(getattr(config, name)):
            raise TypeError(f"loading a model got an unexpected keyword argument {name!r}")
        setattr(config, name, value)
    if not config.mm_vision_tower:
        raise InputError(f"{folder} is not a LLaVA checkpoint: its config names no mm_vision_tower")
    check_picture_options(config)
    return config


def read_config_file(folder: Path) -> dict:
    """The values of a LLaVA checkpoint's `config.json`. Raises InputError if it is none, or in another layout."""
    path = folder / "config.json"
    if not path.exists() and (folder / "trainer_state.json").exists():
        if not folder.resolve().name.startswith("checkpoint-"):
            raise InputError(
                f"{folder} has no config.json: its training has not ended, the same command goes on with it"
            )
        raise InputError(
            f"{folder} is a checkpoint of a training and holds the trained weights alone: "
            f"the model is {folder.resolve().parent}, once that training has ended"
        )
    values = read_checked(path, "config", LlavaFile)
    if "text_config" in values:
        raise InputError(f"{folder} is a checkpoint in transformers' own LLaVA format, not in LLaVA's (liuhaotian/...)")
    return values


def make_config(cls: type[PreTrainedModel], values: dict, folder: Path) -> PreTrainedConfig:
    """A config of `cls` from the values of a config file. Raises InputError for what transformers does not take."""
    values = {name: value for name, value in values.items() if name != "model_type"}
    try:
        return cls.config_class.from_dict(values)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise InputError(f"the config {folder / 'config.json'}: {one_line(error)}") from error


def load_llava(
    cls: type[PreTrainedModel],
    config: PreTrainedConfig,
    folder: Path,
    placement: Placement,
    base: Path | None = None,
) -> PreTrainedModel:
    """A model of `cls` with exactly the weights of `folder`, and its vision tower, in eval mode.

    Args:
        config: see `read_config`.
        folder: a checkpoint; with `base` one of a projector alone, whose language model `base` has.

    Raises InputError, naming what is wrong, for weights that are missing, left over or of another shape.
    """
    tower = build_vision_tower(config, folder, delay_load=True)
    if config.image_aspect_ratio == "anyres":
        config.image_grid_pinpoints = parse_grid_pinpoints(config.image_grid_pinpoints, tower.image_size)
    weights, tower_weights = split_tower(read_weights(base or folder))
    if base:
        weights |= read_projector(folder)
    fine_tuned_tower = _fine_tuned_tower(config, folder, tower_weights, tower.vision_tower_name, base)
    model = load_weights(
        cls,
        config,
        weights,
        f"checkpoint {folder.name}",
        dtype=placement.dtype,
        device_map=placement.device_map,
        attn_implementation=placement.attn_implementation,
        quantization_config=placement.quantization_config,
    )
    model.config.name_or_path = str(folder)
    tower_device = {"": model.model.embed_tokens.weight.device}
    tower.load_model(tower_device, placement.dtype, fine_tuned_tower, placement.attn_implementation)
    model.model.vision_tower = tower
    return model.eval()


def _fine_tuned_tower(
    config: PreTrainedConfig, folder: Path, inside: StateDict, tower_folder: str, base: Path | None
) -> StateDict | None:
    """The tower's weights `inside` a checkpoint where they are to be used, None where those of its own folder are.

    Raises InputError where the config says that the tower was trained, but its weights are not there.
    """
    if config.unfreeze_mm_vision_tower:
        if base:
            raise InputError(f"{folder} was trained with its vision tower, which a projector alone does not have")
        if not inside:
            raise InputError(f"{folder} was trained with its vision tower, but its weights lack the tower")
        return inside
    if base or not inside or not is_tuned(inside, tower_folder):
        return None
    logger.warning(
        "the vision tower in %s differs from %s and is used, though its config does not say that it was trained",
        *(folder, tower_folder),
    )
    return inside


def check_picture_options(config: PreTrainedConfig) -> None:
    """Raise InputError for a way of cutting or joining pictures that this package does not know."""
    if config.mm_patch_merge_type not in PATCH_MERGE_TYPES:
        raise InputError(f"unknown mm_patch_merge_type {config.mm_patch_merge_type!r}: {', '.join(PATCH_MERGE_TYPES)}")
    if config.image_aspect_ratio not in (None, *IMAGE_ASPECT_RATIOS):
        raise InputError(f"unknown image_aspect_ratio {config.image_aspect_ratio!r}: {', '.join(IMAGE_ASPECT_RATIOS)}")
    if config.image_aspect_ratio != "anyres":
        return
    if not config.image_grid_pinpoints:
        raise InputError("image_aspect_ratio 'anyres' needs image_grid_pinpoints")
    if config.mm_vision_select_feature != "patch" and config.mm_patch_merge_type.startswith("spatial"):
        raise InputError(
            f"mm_patch_merge_type {config.mm_patch_merge_type!r} needs mm_vision_select_feature 'patch', "
            f"not {config.mm_vision_select_feature!r}: [CLS] has no place among the patches"
        )


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Give the model its checkpoint's generation defaults and, with a tokenizer, a pad token, which batches need."""
    path = folder / "generation_config.json"
    if path.exists():
        values = read_checked(path, "generation config", GenerationFile)
        # Kept apart, since transformers warns in every run of sampling settings in a config that does not sample.
        names = [name for name in ("temperature", "top_p", "top_k") if name in values]
        model.sampling_defaults = {name: values.pop(name) for name in names}
        try:
            model.generation_config = GenerationConfig.from_dict(values)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"the generation config {path}: {one_line(error)}") from error
    model.generation_config.max_length = None  # `generate` goes on to the end of the context unless told otherwise
    if tokenizer is None:
        return
    if model.generation_config.pad_token_id is None:
        pad = tokenizer.pad_token_id
        model.generation_config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
    _stop_at_turns(model.generation_config, tokenizer)


def _stop_at_turns(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let an answer end with its turn too: generation configs of Llama-3 and others name the end of a text alone."""
    if config.eos_token_id is None:
        return
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    vocabulary = tokenizer.get_vocab()
    more = [vocabulary[token] for token in _ENDS_OF_TURNS if vocabulary.get(token, ends[0]) not in ends]
    if more:
        config.eos_token_id = [*ends, *more]


def require_extras(attn_implementation: str | None, load_8bit: bool, load_4bit: bool) -> None:
    """Raise InputError, naming the extra, for an option whose package is not installed."""
    if load_8bit and load_4bit:
        raise InputError("choose one of load_8bit and load_4bit")
    if (load_8bit or load_4bit) and not find_spec("bitsandbytes"):
        raise InputError("loading in 4 or 8 bits needs bitsandbytes: pip install -e '.[quant]'")
    if attn_implementation == "flash_attention_2" and not find_spec("flash_attn"):
        raise InputError("flash_attention_2 needs flash-attn: pip install -e '.[flash-attn]'")


def _find_device_map(device_map: str | dict, device: str) -> str | dict:
    """The device map that `device_map` and `device` ask for, or the CPU where they ask for a GPU and there is none."""
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


def _find_dtype(torch_dtype: str | torch.dtype | None, device_map: str | dict) -> torch.dtype:
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
