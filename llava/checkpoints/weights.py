"""Published key layouts -> this model's keys, strictly.

A weight that is missing, left over, of another shape or not finite is an error that names it: a model that answers with
some of its weights random is the worst outcome there is, since its answers look like answers.
"""

import re
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llava.checkpoints.weight_files import StateDict, read_weights
from llava.errors import InputError, list_some, one_line
from llava.files import write_json

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOWER_PREFIX = "model.vision_tower.vision_tower."
# Buffers that older versions of transformers saved and newer ones compute.
OLD_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")
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
# Keys of a config that are its library's own, or have another name in a published one.
_OWN_KEYS = {"_name_or_path", "architectures", "dtype", "quantization_config", "rope_parameters", "tokenizer_class"}
_OWN_KEYS |= {"tokenizer_model_max_length", "transformers_version"}
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_TEXT_SIDE = re.compile(r"(text_model\.|text_projection|visual_projection|logit_scale|logit_bias)")


def split_tower(weights: StateDict) -> tuple[StateDict, StateDict]:
    """A LLaVA checkpoint's tensors as (language model and projector, vision tower), the tower's without prefix."""
    tower = {key.removeprefix(TOWER_PREFIX): value for key, value in weights.items() if key.startswith(TOWER_PREFIX)}
    return {key: value for key, value in weights.items() if not key.startswith(TOWER_PREFIX)}, tower


def load_tower_weights(
    cls: type[PreTrainedModel], config: PreTrainedConfig, folder: str, weights: StateDict | None, **placement
) -> PreTrainedModel:
    """An image encoder with `weights`, or with those in `folder`, whose keys may begin with `vision_model.`.

    What a config leaves out of its folder's model is no surprise: the layers beyond its own, and a pooling head where
    `vision_use_head` is false.
    """
    weights = of_vision(read_weights(folder) if weights is None else weights)
    if not getattr(config, "vision_use_head", True):
        weights = {
            key: tensor
            for key, tensor in weights.items()
            if not key.startswith("head.")
            and not ((layer := _LAYER.search(key)) and int(layer[1]) >= config.num_hidden_layers)
        }
    return load_weights(cls, config, weights, f"vision tower {folder}", **placement)


def of_vision(weights: StateDict) -> StateDict:
    """The tensors of the vision side of a model of pictures and texts, under this package's names."""
    return {key.removeprefix("vision_model."): tensor for key, tensor in weights.items() if not _TEXT_SIDE.match(key)}


def is_tuned(inside: StateDict, tower_folder: str) -> bool:
    """Whether the tower `inside` a checkpoint is another than that of the tower's folder.

    Copies differ by the rounding of the dtypes that they went through; what differs by more than two roundings to
    bfloat16 was trained.
    """
    theirs = of_vision(read_weights(tower_folder))
    for key, tensor in of_vision(inside).items():
        if key not in theirs or OLD_BUFFERS.search(key):
            continue
        ours, other = tensor.float(), theirs[key].float()
        if ours.shape != other.shape or not torch.allclose(ours, other, rtol=2**-7, atol=1e-6, equal_nan=True):
            return True
    return False


def load_weights(
    cls: type[PreTrainedModel], config: PreTrainedConfig, weights: StateDict, source: str, **placement
) -> PreTrainedModel:
    """Build `cls(config)` with exactly `weights`; `placement` is dtype, device_map, quantization_config and the like.

    Raises InputError, naming `source` and the keys, unless keys and shapes are exactly the model's and all values are
    floating and finite, also in the dtype that they are loaded in.
    """
    weights = {key: tensor for key, tensor in weights.items() if not OLD_BUFFERS.search(key)}
    _require_floating(weights, source)
    _require_depth(config, weights, source)
    weights = require_fit(cls, config, weights, source)
    try:
        model, report = cls.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, **placement
        )
    except ImportError as error:
        raise InputError(f"{source} needs a package that is not installed: {one_line(error)}") from error
    if lost := set(report["missing_keys"]) | {key for key, *_ in report["mismatched_keys"]}:
        raise InputError(f"{source}: transformers did not load {list_some(lost)}")
    # In the model, where they are in memory; quantized or offloaded (meta) ones as they are in the file.
    loaded = {} if placement.get("quantization_config") else model.state_dict()
    here = {key: tensor for key, tensor in loaded.items() if key in weights and not tensor.is_meta}
    if bad := find_not_finite(weights | here):
        raise InputError(f"{source} has values that are not finite in {list_some(bad)}")
    return model


def _require_floating(weights: StateDict, source: str) -> None:
    """Raise InputError, naming it, for a weight that would have to be made a floating number first."""
    other = {key: tensor.dtype for key, tensor in weights.items() if tensor.dtype not in FLOATING}
    if other:
        key = min(other)
        kind = f"{_dtype_name(other[key])}, not a floating dtype"
        raise InputError(f"{source}: {key} is {kind} ({len(other)} such weights)")


def find_not_finite(weights: StateDict) -> set[str]:
    """The names of the weights with a value that is NaN or infinite.

    The least and the largest value tell, since NaN is both where there is one. Unlike `isfinite` of all values, that
    takes no memory, and on a CPU a tenth of the time.
    """
    return {key for key, tensor in weights.items() if tensor.numel() and not all(map(torch.isfinite, tensor.aminmax()))}


def _require_depth(config: PreTrainedConfig, weights: StateDict, source: str) -> None:
    """Raise InputError if the config has more layers than there are weights, before building so many takes minutes."""
    if config.num_hidden_layers > len(weights):
        found = len({match[1] for key in weights if (match := _LAYER.search(key))})
        raise InputError(f"{source}: its config has {config.num_hidden_layers} layers, its weights have {found}")


def require_fit(cls: type[PreTrainedModel], config: PreTrainedConfig, weights: StateDict, source: str) -> StateDict:
    """The weights that `cls(config)` takes. Raises InputError unless they are exactly those, in its shapes."""
    try:
        with torch.device("meta"):  # the model without memory, for its keys and shapes
            skeleton = cls(config)
    except InputError:
        raise
    except Exception as error:  # what a class makes of sizes that do not fit each other
        raise InputError(f"{source}: no {cls.__name__} can be built from its config: {one_line(error)}") from error
    expected = {key: tuple(tensor.shape) for key, tensor in skeleton.state_dict().items()}
    is_tied = getattr(config, "tie_word_embeddings", False)
    tied = set(skeleton._tied_weights_keys or ()) if is_tied else set()
    if "model.image_newline" not in expected:  # another mm_patch_merge_type than the checkpoint's own has no newlines
        weights = {key: tensor for key, tensor in weights.items() if key != "model.image_newline"}
    if problems := misfits(expected, weights, tied):
        raise InputError(f"{source} does not fit {cls.__name__}: {problems}")
    return weights


def misfits(expected: dict[str, tuple[int, ...]], weights: StateDict, may_lack: set[str] = frozenset()) -> str:
    """What is wrong with `weights` where those of these names and shapes are expected, by name; "" if nothing is."""
    reshaped = {key for key in expected.keys() & weights.keys() if tuple(weights[key].shape) != expected[key]}
    problems = (
        ("missing", expected.keys() - weights.keys() - may_lack),
        ("unexpected", weights.keys() - expected.keys()),
        ("of another shape", reshaped),
    )
    return "; ".join(f"{kind} {list_some(keys)}" for kind, keys in problems if keys)


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
        if key in tied or OLD_BUFFERS.search(key):
            continue
        if key.startswith(TOWER_PREFIX):
            key = f"{TOWER_PREFIX}vision_model.{key.removeprefix(TOWER_PREFIX).removeprefix('vision_model.')}"
        published[key] = tensor.detach().to("cpu", dtype)
        if find_not_finite({key: published[key]}):
            raise InputError(f"{key} has values that are not finite in {_dtype_name(dtype)}")
    return published


def published_config(model: PreTrainedModel, dtype: torch.dtype) -> dict:
    """The values of a published `config.json` for a model whose weights are written in `dtype`."""
    return published_values(model.config, type(model).__name__, _dtype_name(dtype))


def published_values(config: PreTrainedConfig, class_name: str, dtype: str) -> dict:
    """The keys that every published config has, and what else it takes to read the same config back."""
    own = config.to_dict()
    rope = dict(config.rope_parameters)
    theta = rope.pop("rope_theta")
    values = {key: getattr(config, key, default) for key, default in _PUBLISHED_KEYS.items()} | {
        "architectures": own["architectures"] or [class_name],
        "rope_scaling": None if rope == {"rope_type": "default"} else rope,
        "torch_dtype": dtype,
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
