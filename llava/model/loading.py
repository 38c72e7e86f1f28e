"""A checkpoint folder -> a LLaVA model with its vision tower: for `builder` and the classes' `from_pretrained`."""

import logging
from functools import partial
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llava.checkpoints.folders import find_folder
from llava.checkpoints.hf.config import is_hf, is_hf_folder, to_llava_config
from llava.checkpoints.hf.names import to_llava_names
from llava.checkpoints.schemas import GenerationFile, LlavaFile, check, read_checked
from llava.checkpoints.weight_files import StateDict, read_projector, read_weights
from llava.checkpoints.weights import is_tuned, load_weights, published_model_type, split_tower
from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    PATCH_MERGE_TYPES,
)
from llava.errors import InputError, one_line
from llava.files import read_json_object
from llava.model.load_options import LoadOptions
from llava.model.lora import is_lora, merge_lora, read_whole
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.placement import Placement, find_dtype, require_extras
from llava.vision.grids import check_aspect_ratio, is_anyres, parse_grid_pinpoints

_ENDS_OF_TURNS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>")
logger = logging.getLogger(__name__)


def from_pretrained(cls: type[PreTrainedModel], name: str | Path, *args, **kwargs) -> PreTrainedModel:
    """`from_pretrained` of a LLaVA class: the model with its vision tower, in eval mode.

    Args:
        cls: the class; the checkpoint must be one of it.
        name: folder or hub id in the published layout.
        kwargs: `device_map`, `attn_implementation`, and those of `load_pretrained_model`. Without a dtype it is
            transformers' own default, float32; without a device_map, the CPU.

    Raises InputError, naming what is wrong with the checkpoint, and TypeError for another argument.
    """
    if args:
        raise TypeError("from_pretrained() takes the checkpoint alone by position")
    device_map, attention = kwargs.pop("device_map", None), kwargs.pop("attn_implementation", None)
    options = LoadOptions.from_keywords(kwargs)
    require_extras(attention, False, False)
    dtype = find_dtype(options.dtype or torch.float32, {})
    placement = Placement(device_map or {"": "cpu"}, dtype, attention, options.quantization_config)
    folder = find_folder(str(name), "checkpoint", cache_dir=options.cache_dir)
    _require_class(folder, cls)
    config = read_config(folder, cls, options.overrides)
    model = load_llava(cls, config, folder, placement)
    set_generation_defaults(model, None, folder)
    model.load_tokenizer = partial(load_image_tokenizer, cls, folder, config)
    return model


def load_image_tokenizer(cls: type[PreTrainedModel], folder: Path, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer with the tokens around images that some checkpoints use.

    Raises InputError if the model of this config has no embeddings for them.
    """
    tokenizer = cls.read_tokenizer(folder)
    tokens = [DEFAULT_IMAGE_PATCH_TOKEN] if config.mm_use_im_patch_token else []
    tokens += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN] if config.mm_use_im_start_end else []
    tokenizer.add_tokens(tokens, special_tokens=True)
    if len(tokenizer) > config.vocab_size:
        raise InputError(f"the tokenizer has {len(tokenizer)} tokens, the model embeddings for {config.vocab_size}")
    return tokenizer


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
    """The values of a LLaVA checkpoint's `config.json`, in LLaVA's layout. Raises InputError if it is not LLaVA's."""
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
    values = read_json_object(path, "config")
    if is_hf(values):
        values = to_llava_config(values, folder)
    check(values, LlavaFile, f"the config {path}")
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
        folder: a checkpoint; with `base` one of a projector alone or of LoRA, whose language model `base` has.

    Raises InputError, naming what is wrong, for weights that are missing, left over or of another shape.
    """
    tower = build_vision_tower(config, folder, delay_load=True)
    if is_anyres(config.image_aspect_ratio):
        config.image_grid_pinpoints = parse_grid_pinpoints(config.image_grid_pinpoints, tower.image_size)
    _ = tower.image_processor  # read now: what is wrong with it shows before weights are downloaded
    weights, tower_weights = split_tower(read_llava_weights(base or folder))
    if base:
        weights |= read_whole(folder) if is_lora(folder) else read_projector(folder)
    dtype = placement.dtype or find_dtype(config.dtype or torch.float32, {})
    fine_tuned_tower = _fine_tuned_tower(config, folder, tower_weights, tower.vision_tower_name, base)
    model = load_weights(
        cls,
        config,
        weights,
        f"checkpoint {folder.name}",
        dtype=dtype,
        device_map=placement.device_map,
        attn_implementation=placement.attn_implementation,
        quantization_config=placement.quantization_config,
    )
    if base and is_lora(folder):
        model = merge_lora(model, folder)
    model.config.name_or_path = str(folder)
    tower_device = {"": model.model.embed_tokens.weight.device}
    tower.load_model(tower_device, dtype, fine_tuned_tower, placement.attn_implementation)
    model.model.vision_tower = tower
    return model.eval()


def read_llava_weights(folder: Path) -> StateDict:
    """All tensors of a checkpoint under their published names. Raises InputError as `read_weights` does."""
    weights = read_weights(folder)
    if not is_hf_folder(folder):
        return weights
    names = to_llava_names(weights, f"checkpoint {folder.name}")
    return {name: weights[own] for own, name in names.items()}


def _fine_tuned_tower(
    config: PreTrainedConfig, folder: Path, inside: StateDict, tower_folder: str, base: Path | None
) -> StateDict | None:
    """The tower's weights `inside` a checkpoint where they are to be used, None where those of its own folder are.

    Raises InputError where the config says that the tower was trained, but its weights are not there.
    """
    if _was_tower_trained(config):
        if base and not is_lora(folder):
            raise InputError(f"{folder} was trained with its vision tower, which a projector alone does not have")
        if not inside:
            raise InputError(f"{folder} was trained with its vision tower, but its weights lack the tower")
        return inside
    use_inside = not base or is_lora(folder)
    return inside if use_inside and uses_tower_inside(config, base or folder, inside, tower_folder) else None


def _was_tower_trained(config: PreTrainedConfig) -> bool:
    """Whether a config says that the vision tower was trained; LLaVA-NeXT lists what was."""
    return config.unfreeze_mm_vision_tower or "mm_vision_tower" in (getattr(config, "mm_tunable_parts", None) or "")


def uses_tower_inside(config: PreTrainedConfig, folder: Path, inside: StateDict, tower_folder: str) -> bool:
    """Whether a checkpoint's tower is that `inside` it, by its config or by the weights, and not its tower folder's."""
    if _was_tower_trained(config):
        return True
    if not inside or not is_tuned(inside, tower_folder):
        return False
    logger.warning(
        "the vision tower in %s differs from %s and is used, though its config does not say that it was trained",
        *(folder, tower_folder),
    )
    return True


def check_picture_options(config: PreTrainedConfig) -> None:
    """Raise InputError for a way of cutting or joining pictures that this package does not know."""
    if config.mm_patch_merge_type not in PATCH_MERGE_TYPES:
        raise InputError(f"unknown mm_patch_merge_type {config.mm_patch_merge_type!r}: {', '.join(PATCH_MERGE_TYPES)}")
    check_aspect_ratio(config.image_aspect_ratio)
    if not is_anyres(config.image_aspect_ratio):
        return
    if not config.image_grid_pinpoints:
        raise InputError(f"image_aspect_ratio {config.image_aspect_ratio!r} needs image_grid_pinpoints")
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
    stop_at_turns(model.generation_config, tokenizer)


def stop_at_turns(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let an answer end with its turn too: generation configs of Llama-3 and others name the end of a text alone."""
    if config.eos_token_id is None:
        return
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    vocabulary = tokenizer.get_vocab()
    more = [vocabulary[token] for token in _ENDS_OF_TURNS if vocabulary.get(token, ends[0]) not in ends]
    if more:
        config.eos_token_id = [*ends, *more]
