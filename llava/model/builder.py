"""A path -> tokenizer, model, image processor, context length: the one door to a checkpoint."""

import logging
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import (
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.model.checkpoint import find_folder, load_weights, read_weight_file, read_weights, split_tower
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava.model.language_model.llava_mistral import LlavaMistralForCausalLM
from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.pruning import VISPRUNER, check_pruning_method
from llava.model.tokenizer import load_tokenizer
from llava.model.visual_token_pruning import check_budget
from llava.utils import InputError, one_line, read_json_object

logger = logging.getLogger(__name__)

MODEL_CLASSES = {
    "llava": LlavaLlamaForCausalLM,
    "llava_llama": LlavaLlamaForCausalLM,
    "llava_mistral": LlavaMistralForCausalLM,
    "llava_qwen": LlavaQwenForCausalLM,
}
PATCH_MERGE_TYPES = ("flat", "spatial", "spatial_unpad")
IMAGE_ASPECT_RATIOS = ("square", "pad", "anyres")


def load_pretrained_model(
    model_path: str,
    model_base: str | None,
    model_name: str,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: str | dict = "auto",
    device: str = "cuda",
    use_flash_attn: bool = False,
    *,
    visual_token_num: int | None = None,
    important_ratio: float = 0.5,
    pruning_method: str = VISPRUNER,
    pruning_seed: int = 0,
    compile_decoding: bool = False,
    attn_implementation: str | None = None,
    torch_dtype: str | torch.dtype | None = None,
    **kwargs,
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, object, int]:
    """Load a LLaVA checkpoint for inference.

    Args:
        model_path: folder or hub id in the format of liuhaotian/llava-v1.5-7b; with `model_base`, of a projector
            alone (`config.json` and `mm_projector.bin`).
        model_base: folder or hub id of the language model that a projector-only checkpoint was trained for.
        model_name: the checkpoint's name, as messages are to give it.
        load_8bit, load_4bit: quantize the language model with bitsandbytes (the extra `quant`).
        device_map: as in accelerate; `auto` spreads the language model over the visible GPUs.
        device: where everything goes if it is not "cuda"; "cuda" without a GPU becomes the CPU, with a message.
        use_flash_attn: same as attn_implementation="flash_attention_2".
        visual_token_num: visual tokens kept of each crop; None keeps all.
        important_ratio: share of them that VisPruner chooses by [CLS] attention.
        pruning_method: how they are chosen, one of `llava.model.pruning.PRUNING_METHODS`.
        pruning_seed: the seed of what a method draws at random.
        compile_decoding: keep keys and values in place and, on a GPU, compile a token's step into a CUDA graph.
        attn_implementation: as in transformers, for language model and vision tower.
        torch_dtype: weights' dtype; float16 on a GPU and float32 on the CPU if None.
        kwargs: config keys to override, such as `mm_patch_merge_type` and `image_grid_pinpoints`.

    Returns:
        Tokenizer, model in eval mode, image processor, and the context length in tokens.

    Raises:
        InputError: naming what is wrong with the checkpoint or an option.
        TypeError: for a keyword that is neither an option nor a config key.
    """
    check_budget(visual_token_num, important_ratio)
    check_pruning_method(pruning_method)
    attn_implementation = "flash_attention_2" if use_flash_attn else attn_implementation
    _require_extras(attn_implementation, load_8bit, load_4bit)
    folder = find_folder(str(model_path), "checkpoint")
    base = find_folder(str(model_base), "base model") if model_base else folder
    cls, config = _read_llava_config(folder, kwargs)
    device_map = _placement(device_map, device)
    dtype = _dtype(torch_dtype, device_map)
    tower = build_vision_tower(config, folder, delay_load=True)
    tokenizer = load_tokenizer(base)

    weights, tower_weights = split_tower(read_weights(base))
    if model_base:
        weights |= _read_projector(folder)
    fine_tuned_tower = tower_weights if config.unfreeze_mm_vision_tower and not model_base else None
    if fine_tuned_tower is not None and not fine_tuned_tower:
        raise InputError(f"{model_name} was trained with its vision tower, but its weights lack the tower")
    model = load_weights(
        cls,
        config,
        weights,
        f"checkpoint {model_name}",
        dtype=dtype,
        device_map=device_map,
        attn_implementation=attn_implementation,
        quantization_config=_quantization(load_8bit, load_4bit, dtype),
    )
    model.config.name_or_path = str(model_path)
    _add_image_tokens(tokenizer, model)
    set_generation_defaults(model, tokenizer, folder)

    tower_device = {"": model.model.embed_tokens.weight.device}
    tower.load_model(tower_device, dtype, fine_tuned_tower, attn_implementation)
    model.model.vision_tower = tower
    model.visual_token_num, model.important_ratio = visual_token_num, important_ratio
    model.pruning_method, model.pruning_seed = pruning_method, pruning_seed
    model.compile_decoding = compile_decoding
    return tokenizer, model.eval(), tower.image_processor, config.max_position_embeddings


def _read_llava_config(folder: Path, overrides: dict) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """The model class of a checkpoint and its config with `overrides`."""
    values = read_json_object(folder / "config.json", "config")
    if "text_config" in values:
        raise InputError(f"{folder} is a checkpoint in transformers' own LLaVA format, not in LLaVA's (liuhaotian/...)")
    by_name = {cls.__name__: cls for cls in MODEL_CLASSES.values()}
    architecture = (values.get("architectures") or [None])[0]
    model_type = values.pop("model_type", None)
    cls = by_name.get(architecture) or MODEL_CLASSES.get(model_type)
    if cls is None:
        raise InputError(f"{folder} is not a LLaVA checkpoint but {architecture or model_type}")
    try:
        config = cls.config_class.from_dict(values)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder}/config.json: {one_line(error)}") from error
    for name, value in overrides.items():
        if not hasattr(config, name) or callable(getattr(config, name)):
            raise TypeError(f"load_pretrained_model() got an unexpected keyword argument {name!r}")
        setattr(config, name, value)
    if not config.mm_vision_tower:
        raise InputError(f"{folder} is not a LLaVA checkpoint: its config names no mm_vision_tower")
    check_picture_options(config)
    return cls, config


def check_picture_options(config: PreTrainedConfig) -> None:
    """Raise InputError for a way of cutting or joining pictures that this package does not know."""
    if config.mm_patch_merge_type not in PATCH_MERGE_TYPES:
        raise InputError(f"unknown mm_patch_merge_type {config.mm_patch_merge_type!r}: {', '.join(PATCH_MERGE_TYPES)}")
    if config.image_aspect_ratio not in (None, *IMAGE_ASPECT_RATIOS):
        raise InputError(f"unknown image_aspect_ratio {config.image_aspect_ratio!r}: {', '.join(IMAGE_ASPECT_RATIOS)}")
    if config.image_aspect_ratio == "anyres" and not config.image_grid_pinpoints:
        raise InputError("image_aspect_ratio 'anyres' needs image_grid_pinpoints")


def _require_extras(attn_implementation: str | None, load_8bit: bool, load_4bit: bool) -> None:
    if load_8bit and load_4bit:
        raise InputError("choose one of load_8bit and load_4bit")
    if (load_8bit or load_4bit) and not find_spec("bitsandbytes"):
        raise InputError("loading in 4 or 8 bits needs bitsandbytes: pip install -e '.[quant]'")
    if attn_implementation == "flash_attention_2" and not find_spec("flash_attn"):
        raise InputError("flash_attention_2 needs flash-attn: pip install -e '.[flash-attn]'")


def _placement(device_map: str | dict, device: str) -> str | dict:
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


def _dtype(torch_dtype: str | torch.dtype | None, device_map: str | dict) -> torch.dtype:
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


def _read_projector(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a projector-only checkpoint."""
    path = folder / "mm_projector.bin"
    if not path.exists():
        raise InputError(f"{folder} has no mm_projector.bin, which a checkpoint on a base model must have")
    return read_weight_file(path)


def _add_image_tokens(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Add the tokens around images that some checkpoints use, if the model has embeddings for them."""
    tokens = [DEFAULT_IMAGE_PATCH_TOKEN] if model.config.mm_use_im_patch_token else []
    tokens += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN] if model.config.mm_use_im_start_end else []
    tokenizer.add_tokens(tokens, special_tokens=True)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise InputError(f"the tokenizer has {len(tokenizer)} tokens, the model embeddings for {rows}")


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Give the model its checkpoint's generation defaults, and a pad token, which generating in batches needs."""
    path = folder / "generation_config.json"
    if path.exists():
        values = read_json_object(path, "generation config")
        # Kept apart, since transformers warns in every run of sampling settings in a config that does not sample.
        names = [name for name in ("temperature", "top_p", "top_k") if name in values]
        model.sampling_defaults = {name: values.pop(name) for name in names}
        model.generation_config = GenerationConfig.from_dict(values)
    model.generation_config.max_length = None  # `generate` goes on to the end of the context unless told otherwise
    if model.generation_config.pad_token_id is None:
        pad = tokenizer.pad_token_id
        model.generation_config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
