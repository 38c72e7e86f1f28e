"""`config.json` in the layout of transformers' own LLaVA classes (llava-hf/...) <-> in LLaVA's.

This file imports transformers where it reads a config, and torch not at all.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from llava.checkpoints.schemas import HfLlavaFile, HfTextPart, check, read_image_processor_values
from llava.errors import InputError, one_line
from llava.files import read_json_object
from llava.vision.grids import parse_grid_pinpoints

# `model_type` of the checkpoints that are read -> the class that they name.
CLASSES = {"llava": "LlavaForConditionalGeneration", "llava_next": "LlavaNextForConditionalGeneration"}
_CLIP = "clip_vision_model"
# `model_type` of a language model -> of LLaVA on it, where that is not "llava_" and the same name.
_LLAVA_ON = {"qwen2": "llava_qwen"}
# What a language model's own config says of its file rather than of the model.
_OF_THE_FILE = ("_name_or_path", "architectures", "dtype", "model_type", "torch_dtype", "transformers_version")


def is_hf(values: dict) -> bool:
    """Whether these are the values of a config in transformers' layout, of LLaVA or of another model in two parts."""
    return "text_config" in values


def is_hf_folder(folder: Path) -> bool:
    """Whether a folder's config is in transformers' layout. Raises InputError if it has no readable config."""
    path = folder / "config.json"
    return path.exists() and is_hf(read_json_object(path, "config"))


def model_type_of(values: dict) -> str | None:
    """`model_type` of a checkpoint's config in either layout, as LLaVA's own has it."""
    if not is_hf(values) or values.get("model_type") not in CLASSES:
        return values.get("model_type")
    text = values["text_config"] if isinstance(values["text_config"], dict) else {}
    language_model = text.get("model_type", "llama")
    return _LLAVA_ON.get(language_model, f"llava_{language_model}")


def to_llava_config(values: dict, folder: Path) -> dict:
    """The values of a `config.json` in transformers' layout as LLaVA's has them.

    Absent keys stand for what transformers takes them for. The vision tower is that in the checkpoint; `folder` also
    has the config of the image processor.
    Raises InputError for another model, or one that LLaVA's layout cannot say.
    """
    where = f"the config {folder / 'config.json'}"
    config = _read_with_transformers(values, folder, where)
    text, vision = config.text_config, config.vision_config
    _refuse(config, where)
    is_next = config.model_type == "llava_next"
    translated = {key: value for key, value in text.to_diff_dict().items() if key not in _OF_THE_FILE}
    translated |= {
        "model_type": model_type_of(values),
        "tie_word_embeddings": config.tie_word_embeddings,
        "mm_vision_tower": str(folder.resolve()),
        "unfreeze_mm_vision_tower": True,
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": {"default": "patch", "full": "cls_patch"}[config.vision_feature_select_strategy],
        "mm_patch_merge_type": "spatial_unpad" if is_next else "flat",
    }
    return translated | _picture_options(config, folder)


def _read_with_transformers(values: dict, folder: Path, where: str):
    """transformers' config. Raises InputError unless it is that of one of `CLASSES`."""
    model_type, architecture = values.get("model_type"), (values.get("architectures") or [None])[0]
    if model_type not in CLASSES:
        raise InputError(f"{folder} is not a LLaVA checkpoint but {architecture or model_type}")
    if architecture not in (None, CLASSES[model_type]):
        raise InputError(f"{folder} is in transformers' own LLaVA format, but of {architecture}: {CLASSES[model_type]}")
    check(values, HfLlavaFile, where)
    for part in ("text_config", "vision_config"):
        if isinstance(values.get(part), dict):
            check(values[part], HfTextPart, f"{where}, {part}")
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[model_type].from_dict(values)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise InputError(f"{where}: {one_line(error)}") from error


def _refuse(config, where: str) -> None:
    """Raise InputError, naming the key, for what LLaVA's layout or this package has no way to say."""
    if config.vision_config.model_type != _CLIP:
        raise InputError(f"{where}: the vision tower is not CLIP but {config.vision_config.model_type!r}")
    needed = {"projector_hidden_act": "gelu", "multimodal_projector_bias": True}
    for key, value in needed.items():
        if getattr(config, key) != value:
            raise InputError(f"{where}: {key} is {getattr(config, key)!r}, only {value!r} is read")
    if not isinstance(config.vision_feature_layer, int):
        raise InputError(f"{where}: vision_feature_layer {config.vision_feature_layer} has several layers, one is read")


def _picture_options(config, folder: Path) -> dict[str, Any]:
    """How pictures become squares, as keys of LLaVA's config; [height, width] become [width, height].

    The published 1.5 name CLIP's image processor, which cannot pad and cuts the central square out. The same weights
    in LLaVA's layout say `pad`, as they were trained, and that is what they mean here too.
    """
    processor = read_image_processor_values(folder)
    if config.model_type != "llava_next":
        can_pad = "Llava" in (processor.get("image_processor_type") or "")
        return {"image_aspect_ratio": "square" if can_pad and not processor.get("do_pad") else "pad"}
    grid = config.image_grid_pinpoints
    if processor.get("image_grid_pinpoints", grid) != grid:
        raise InputError(f"{folder}: image_grid_pinpoints of the model and of its image processor are not the same")
    return {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[width, height] for height, width in grid]}


def to_hf_config(config, values: dict, tower, vocabulary: tuple[int, int, int]) -> dict:
    """A `config.json` for transformers' own classes.

    Args:
        config: of the checkpoint, as `read_config` gives it.
        values: of the checkpoint's own `config.json`, which is kept in the new one for the way back.
        tower: the checkpoint's vision tower.
        vocabulary: the ids of `<image>` and of the pad token, and the rows of the embeddings.

    Raises InputError, naming the key, for what those classes cannot do.
    """
    is_next = config.image_aspect_ratio == "anyres"
    if tower.config.model_type != _CLIP:
        raise InputError(f"transformers' own LLaVA classes are read with CLIP, not with {tower.config.model_type!r}")
    if config.image_aspect_ratio not in (None, "square", "pad", "anyres"):
        raise InputError(f"transformers' own classes cannot do image_aspect_ratio {config.image_aspect_ratio!r}")
    _require(config, "mm_projector_type", "mlp2x_gelu")
    _require(config, "mm_use_im_start_end", False)
    _require(config, "mm_use_im_patch_token", False)
    _require(config, "mm_patch_merge_type", "spatial_unpad" if is_next else "flat")
    image_token, pad, rows = vocabulary
    language_model = next(parent for parent in type(config).__mro__ if not _is_llavas(parent))
    names = {field.name for field in fields(language_model)} - {"architectures", "dtype", "transformers_version"}
    text = {name: value for name, value in config.to_diff_dict().items() if name in names}
    text["rope_theta"] = config.rope_parameters["rope_theta"]  # where transformers 4 looks for it
    model_type = "llava_next" if is_next else "llava"
    written = {
        "architectures": [CLASSES[model_type]],
        "model_type": model_type,
        "image_token_index": image_token,
        "image_seq_length": tower.num_patches,
        "pad_token_id": pad,
        "projector_hidden_act": "gelu",
        "text_config": text | {"model_type": language_model.model_type, "vocab_size": rows},
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": values.get("torch_dtype") or values.get("dtype") or "float16",
        "vision_config": tower.config.to_diff_dict() | {"model_type": tower.config.model_type},
        "vision_feature_layer": config.mm_vision_select_layer,
        "vision_feature_select_strategy": {"patch": "default", "cls_patch": "full"}[config.mm_vision_select_feature],
        "llava_config": values,
    }
    if is_next:
        grid = parse_grid_pinpoints(config.image_grid_pinpoints, tower.image_size)
        written |= {"image_grid_pinpoints": [[height, width] for width, height in grid]}
    return written


def _is_llavas(cls: type) -> bool:
    return cls.__module__.startswith("llava.")


def _require(config, key: str, value: Any) -> None:
    if getattr(config, key) != value:
        raise InputError(f"transformers' own classes cannot do {key} {getattr(config, key)!r}, only {value!r}")


def to_hf_processor(config: dict, image_processor: dict, do_pad: bool) -> tuple[dict, dict]:
    """`preprocessor_config.json` and `processor_config.json` for a config of `to_hf_config`.

    Args:
        config: what `to_hf_config` gave.
        image_processor: the values of the tower's image processor.
        do_pad: whether a picture is padded to a square; for one that is not cut into crops.
    """
    name = "LlavaNext" if config["model_type"] == "llava_next" else "Llava"
    images = {key: value for key, value in image_processor.items() if not key.endswith("_type")}
    images |= {"image_processor_type": f"{name}ImageProcessor", "processor_class": f"{name}Processor"}
    images["do_pad"] = do_pad if name == "Llava" else True
    if name == "LlavaNext":
        images["image_grid_pinpoints"] = config["image_grid_pinpoints"]
    return images, {
        "processor_class": f"{name}Processor",
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": config["vision_config"]["patch_size"],
        "vision_feature_select_strategy": config["vision_feature_select_strategy"],
    }
