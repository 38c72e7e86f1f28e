"""LoRA training in upstream's layout: low-rank changes of the decoder's matrices, on weights of 16, 8 or 4 bits.

Hu et al., "LoRA", arXiv 2106.09685; Dettmers et al., "QLoRA", arXiv 2305.14314. peft puts the adapters into the model.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from packaging.version import Version
from safetensors.torch import save_file
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations import peft

from llava.checkpoints.weight_files import StateDict
from llava.errors import InputError
from llava.model.lora import ADAPTERS, NEEDS_PEFT, WHOLE
from llava.train.arguments import TrainingArguments

_PREFIX = "base_model.model."  # what peft puts in front of the model's own names
_ADAPTER = ".default."  # the name of the adapter, which the files leave out


def require_packages(args: TrainingArguments) -> None:
    """Raise InputError, naming the extra, for a package that LoRA or QLoRA needs and that is missing or too old."""
    if args.lora_enable and not find_spec("peft"):
        raise InputError(NEEDS_PEFT)
    if args.bits != 16 and not find_spec("bitsandbytes"):
        raise InputError(f"--bits {args.bits} needs bitsandbytes: pip install -e '.[quant]'")
    if args.lora_enable and Version(here := version("peft")) < Version(peft.MIN_PEFT_VERSION):
        raise InputError(
            f"LoRA needs peft {peft.MIN_PEFT_VERSION} with transformers {version('transformers')}, not peft {here}"
        )


def quantization(args: TrainingArguments, dtype: torch.dtype) -> dict:
    """The placement of the language model that `--bits` asks for; nothing for 16. `dtype` is what it computes in."""
    if args.bits == 16:
        return {}
    config = BitsAndBytesConfig(
        load_in_8bit=args.bits == 8,
        load_in_4bit=args.bits == 4,
        llm_int8_skip_modules=["model.mm_projector", "lm_head"],
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=args.double_quant,
        bnb_4bit_quant_type=args.quant_type,
    )
    return {"quantization_config": config, "device_map": {"": args.device}}


def add_lora(model: PreTrainedModel, args: TrainingArguments, base: str) -> None:
    """Freeze a language model without its vision tower, and give every matrix of its layers an adapter to train.

    `base` is the folder or hub id that the model is from, which the adapter's config names.
    """
    from peft import LoraConfig, prepare_model_for_kbit_training

    if args.bits != 16:
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    linear = {name.rpartition(".")[2] for name, module in model.model.layers.named_modules() if _is_linear(module)}
    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=sorted(linear),
        task_type="CAUSAL_LM",
    )
    model.requires_grad_(False)
    model.add_adapter(config)
    model.peft_config["default"].base_model_name_or_path = base
    for name, parameter in model.named_parameters():
        if _ADAPTER in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)  # those of bitsandbytes are too


def write_lora(model: PreTrainedModel, weights: StateDict, folder: Path) -> None:
    """Write trained weights as upstream does: the adapter with its config, and what was trained as a whole.

    Args:
        model: with its adapter.
        weights: the trained weights under the model's names.
    """
    adapter, whole = {}, {}
    for name, tensor in weights.items():
        if _ADAPTER in name:
            adapter[_PREFIX + name.replace(_ADAPTER, ".")] = tensor.contiguous()
        else:
            whole[_PREFIX + name] = tensor
    save_file(adapter, folder / ADAPTERS[0], metadata={"format": "pt"})
    torch.save(whole, folder / WHOLE)
    config = model.peft_config["default"]
    config.inference_mode = True
    config.save_pretrained(folder)
