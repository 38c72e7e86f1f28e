"""LoRA checkpoints as LLaVA's training writes them: low-rank changes of a language model's matrices, merged at loading.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685. The arithmetic is the library peft's,
an extra. A folder has `adapter_config.json`, `adapter_model.safetensors` or `.bin`, the weights that were trained as a
whole (`non_lora_trainables.bin`: the projector), and LLaVA's `config.json`.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path

from transformers import PreTrainedModel

from llava.checkpoints.folders import ADAPTER_CONFIG, fetch_weights
from llava.checkpoints.weight_files import StateDict, read_weight_file
from llava.checkpoints.weights import find_not_finite, misfits
from llava.errors import InputError, list_some, one_line
from llava.files import read_json_object

WHOLE = "non_lora_trainables.bin"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
NEEDS_PEFT = "LoRA needs peft: pip install -e '.[lora]'"


def is_lora(folder: Path) -> bool:
    """Whether a folder is a LoRA checkpoint."""
    return (folder / ADAPTER_CONFIG).exists()


def read_lora_config(folder: Path):
    """peft's `LoraConfig` of a LoRA checkpoint. Raises InputError if it is another kind, or peft is not installed."""
    values = read_json_object(folder / ADAPTER_CONFIG, "adapter config")
    if values.get("peft_type") != "LORA":
        raise InputError(f"{folder / ADAPTER_CONFIG} is not of LoRA: peft_type is {values.get('peft_type')!r}")
    if not find_spec("peft"):
        raise InputError(NEEDS_PEFT)
    from peft import LoraConfig

    try:
        return LoraConfig.from_pretrained(folder)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"the adapter config {folder / ADAPTER_CONFIG}: {one_line(error)}") from error


def read_whole(folder: Path) -> StateDict:
    """The weights that a LoRA checkpoint's training changed as a whole, under this model's names.

    Raises InputError if they are not there, or there are weights of another kind.
    """
    fetch_weights(folder)
    files = {file.name for ending in ("*.bin", "*.safetensors") for file in folder.glob(ending)}
    if others := files - {WHOLE, *ADAPTERS, "training_args.bin"}:
        raise InputError(f"{folder} has weights that are not read here: {list_some(others)}")
    if WHOLE not in files:
        raise InputError(f"{folder} has no {WHOLE}, which a LoRA checkpoint of LLaVA must have")
    weights = read_weight_file(folder / WHOLE)
    # peft puts `base_model.model.` in front of the model's own names.
    return {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}


def merge_lora(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """`model`, a language model without its vision tower, with a LoRA checkpoint's changes added to its matrices.

    Raises InputError, naming the weights, unless those of the adapter are exactly what its config says.
    """
    config = read_lora_config(folder)
    weights = _read_adapter(folder)
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    where = f"LoRA checkpoint {folder.name}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a name that peft looks for in transformers
            adapted = PeftModel(model, config)
        # Left to itself, it looks for the base model on the hub to see whether embeddings were added.
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        expected = {name: tuple(t.shape) for name, t in own.items()}
        if problems := misfits(expected, weights):
            raise InputError(f"{where} does not fit its config and model: {problems}")
        set_peft_model_state_dict(adapted, weights)
        merged = adapted.merge_and_unload()
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} cannot be merged: {one_line(error)}") from error
    if bad := find_not_finite(merged.state_dict()):
        raise InputError(f"{where}: merged, values are not finite in {list_some(bad)}")
    return merged


def _read_adapter(folder: Path) -> StateDict:
    for name in ADAPTERS:
        if (folder / name).exists():
            weights = read_weight_file(folder / name)
            if bad := find_not_finite(weights):
                raise InputError(f"{folder / name} has values that are not finite in {list_some(bad)}")
            return weights
    raise InputError(f"{folder} has none of {', '.join(ADAPTERS)}")
