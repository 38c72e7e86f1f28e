"""Published key layouts -> this model's keys, strictly.

A weight that is missing, left over or of another shape is an error that names it: a model that answers with some of its
weights random is the worst outcome there is, since its answers look like answers.
"""

import json
import pickle
import re
import zipfile
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llava.utils import InputError, atomic_writer, one_line, read_json_object

StateDict = dict[str, torch.Tensor]

WEIGHT_FILES = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
TOWER_PREFIX = "model.vision_tower.vision_tower."
# Buffers that older versions of transformers saved and newer ones compute.
_OLD_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")
# What this package calls a model and what the published configs do.
_PUBLISHED_MODEL_TYPES = {"llava_llama": "llava"}
# What every published config says, with the values of those keys that nothing in this package sets.
# fmt: off
_PUBLISHED_KEYS = dict.fromkeys((
    "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "image_aspect_ratio", "initializer_range",
    "intermediate_size", "max_position_embeddings", "mm_hidden_size", "mm_projector_type", "mm_use_im_patch_token",
    "mm_use_im_start_end", "mm_vision_select_feature", "mm_vision_select_layer", "mm_vision_tower",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id", "rms_norm_eps",
    "tie_word_embeddings", "tokenizer_padding_side", "unfreeze_mm_vision_tower", "use_cache", "vocab_size",
    "mm_resampler_type",
)) | {
    "freeze_mm_mlp_adapter": False,
    "pretraining_tp": 1,
    "tune_mm_mlp_adapter": False,
    "tune_mm_vision_resampler": False,
    "use_mm_proj": True,
}
# fmt: on
# Keys of a config that are its library's own, or stand in a published one under another name.
_OWN_KEYS = {"_name_or_path", "architectures", "dtype", "rope_parameters", "tokenizer_class"}
_OWN_KEYS |= {"tokenizer_model_max_length", "transformers_version"}
_CLIP_TEXT_SIDE = re.compile(r"(text_model\.|text_projection|visual_projection|logit_scale)")


def read_weights(folder: str | Path) -> StateDict:
    """All tensors of a checkpoint folder, memory-mapped: safetensors if there, else `.bin`, sharded or not.

    Raises InputError if there are none, a shard is missing or unreadable, or a tensor is in no shard.
    """
    folder = Path(folder)
    for index_name, single_name in WEIGHT_FILES:
        index = folder / index_name
        if index.exists():
            weight_map = _read_index(index)
            shards = sorted(set(weight_map.values()))
            if missing := [name for name in shards if not (folder / name).exists()]:
                raise InputError(f"{folder} lacks {', '.join(missing)}, which {index_name} lists")
            tensors = {key: tensor for name in shards for key, tensor in read_weight_file(folder / name).items()}
            if lost := weight_map.keys() - tensors.keys():
                raise InputError(f"{folder}: {_names(lost)} in {index_name} but in no shard")
            return tensors
        if (folder / single_name).exists():
            return read_weight_file(folder / single_name)
    names = ", ".join(name for pair in WEIGHT_FILES for name in pair)
    raise InputError(f"no weights in {folder}: none of {names}")


def _read_index(index: Path) -> dict[str, str]:
    weight_map = read_json_object(index, "weight index").get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{index} has no weight_map")
    return weight_map


def read_weight_file(path: Path) -> StateDict:
    """The tensors of one `.safetensors` or `.bin` file. Raises InputError, naming the file, if it cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise InputError(f"cannot read weights from {path}: {one_line(error)}") from error
    except (EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        with path.open("rb") as file:
            is_pointer = file.read(20).startswith(b"version https://git")
        cause = "a Git LFS pointer, not the file itself" if is_pointer else "damaged, incomplete or not weights"
        raise InputError(f"cannot read weights from {path}: it is {cause}") from error


def split_tower(weights: StateDict) -> tuple[StateDict, StateDict]:
    """A LLaVA checkpoint's tensors as (language model and projector, vision tower), the tower's without prefix."""
    tower = {key.removeprefix(TOWER_PREFIX): value for key, value in weights.items() if key.startswith(TOWER_PREFIX)}
    return {key: value for key, value in weights.items() if not key.startswith(TOWER_PREFIX)}, tower


def load_clip_weights(
    cls: type[PreTrainedModel], config: PreTrainedConfig, folder: str, weights: StateDict | None, **placement
) -> PreTrainedModel:
    """A CLIP vision model with `weights`, or with those in `folder`, whose keys may stand behind `vision_model.`."""
    weights = read_weights(folder) if weights is None else weights
    weights = {
        key.removeprefix("vision_model."): tensor for key, tensor in weights.items() if not _CLIP_TEXT_SIDE.match(key)
    }
    return load_weights(cls, config, weights, f"vision tower {folder}", **placement)


def load_weights(
    cls: type[PreTrainedModel], config: PreTrainedConfig, weights: StateDict, source: str, **placement
) -> PreTrainedModel:
    """Build `cls(config)` with exactly `weights`; `placement` is dtype, device_map, quantization_config and the like.

    Raises InputError, naming `source` and the keys, unless keys and shapes are exactly the model's.
    """
    with torch.device("meta"):  # the model without memory, for its keys and shapes
        skeleton = cls(config)
    expected = {key: tuple(tensor.shape) for key, tensor in skeleton.state_dict().items()}
    is_tied = getattr(config, "tie_word_embeddings", False)
    tied = set(skeleton._tied_weights_keys or ()) if is_tied else set()
    weights = {key: tensor for key, tensor in weights.items() if not _OLD_BUFFERS.search(key)}
    if "model.image_newline" not in expected:  # another mm_patch_merge_type than the checkpoint's own has no newlines
        weights.pop("model.image_newline", None)

    missing, unexpected = expected.keys() - weights.keys() - tied, weights.keys() - expected.keys()
    reshaped = {key for key in expected.keys() & weights.keys() if tuple(weights[key].shape) != expected[key]}
    problems = [
        f"{kind} {_names(keys)}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise InputError(f"{source} does not fit {cls.__name__}: {'; '.join(problems)}")
    try:
        model, report = cls.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, **placement
        )
    except ImportError as error:
        raise InputError(f"{source} needs a package that is not installed: {one_line(error)}") from error
    if lost := set(report["missing_keys"]) | {key for key, *_ in report["mismatched_keys"]}:
        raise InputError(f"{source}: transformers did not load {_names(lost)}")
    return model


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    dtype: torch.dtype = torch.float16,
    state_dict: StateDict | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write a LLaVA model as the published checkpoints are laid out, its vision tower included, as safetensors.

    `config.json` comes last: a folder without it was not written to the end.

    Args:
        model: with its vision tower loaded.
        tokenizer: the model's.
        folder: made if need be.
        dtype: the weights' dtype on disk.
        state_dict: the model's tensors where the model itself has only a part of them (FSDP, DeepSpeed).
        max_shard_size: as in huggingface_hub; more goes to several files with an index.

    Raises InputError if a weight is not finite in `dtype`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    weights = published_weights(model, model.state_dict() if state_dict is None else state_dict, dtype)
    save_torch_state_dict(weights, folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    generation = model.generation_config.to_diff_dict() | model.sampling_defaults
    generation["max_length"] = model.config.max_position_embeddings
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "config.json", published_config(model, dtype))


def published_weights(model: PreTrainedModel, weights: StateDict, dtype: torch.dtype) -> StateDict:
    """`weights`, some or all of the model's, under their published names and in `dtype`.

    Raises InputError, naming the weight, for one that is not finite in `dtype`.
    """
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    published = {}
    for key, tensor in weights.items():
        if key in tied or _OLD_BUFFERS.search(key):
            continue
        if key.startswith(TOWER_PREFIX):
            key = f"{TOWER_PREFIX}vision_model.{key.removeprefix(TOWER_PREFIX).removeprefix('vision_model.')}"
        published[key] = tensor.detach().to("cpu", dtype)
        if not published[key].isfinite().all():
            raise InputError(f"{key} has values that are not finite in {_dtype_name(dtype)}")
    return published


def published_config(model: PreTrainedModel, dtype: torch.dtype) -> dict:
    """The values of a published `config.json` for a model whose weights are written in `dtype`.

    These are the keys that every published config has, and what else it takes to read the same config back.
    """
    config = model.config
    own = config.to_dict()
    rope = dict(config.rope_parameters)
    theta = rope.pop("rope_theta")
    values = {key: getattr(config, key, default) for key, default in _PUBLISHED_KEYS.items()} | {
        "architectures": own["architectures"] or [type(model).__name__],
        "rope_scaling": None if rope == {"rope_type": "default"} else rope,
        "torch_dtype": _dtype_name(dtype),
        "transformers_version": own["transformers_version"],
    }
    if theta != type(config)().rope_parameters["rope_theta"]:
        values["rope_theta"] = theta
    again = type(config).from_dict(values).to_dict()
    more = {key: value for key, value in own.items() if key not in _OWN_KEYS and again.get(key) != value}
    return values | more | {"model_type": published_model_type(config.model_type)}


def published_model_type(model_type: str) -> str:
    """What a published config says as `model_type` where this package's class has `model_type`."""
    return _PUBLISHED_MODEL_TYPES.get(model_type, model_type)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def write_json(path: Path, values: dict) -> None:
    """Write a JSON file that is there whole or not at all. Raises InputError if it cannot be written."""
    with atomic_writer(path) as file:
        file.write(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _names(keys: set[str]) -> str:
    shown = sorted(keys)[:4]
    return ", ".join(shown) + (f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else "")
