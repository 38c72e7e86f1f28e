"""Tiny random checkpoints in the layout of transformers' own LLaVA classes, written by those classes."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CONFIG_MAPPING,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

from tests.conftest import load_script

SIDE, IMAGE, PAD, ROWS = 56, 800, 801, 832
GRID = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]  # [height, width], as published
PROCESSORS = {"llava": "CLIPImageProcessor", "llava_next": "LlavaNextImageProcessor"}


def make_hf_checkpoint(folder: Path, kind: str = "llava", text: str = "llama", names: str = "as saved") -> Path:
    """Write a checkpoint like llava-hf's; `names` of weights "as saved" by this transformers, "old" or "new"."""
    torch.manual_seed(0)
    config_class, cls = {
        "llava": (LlavaConfig, LlavaForConditionalGeneration),
        "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration),
    }[kind]
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**vision, image_size=SIDE, patch_size=14, projection_dim=32)
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": ROWS, "max_position_embeddings": 1024}
    text = CONFIG_MAPPING[text](**sizes, rms_norm_eps=1e-5)
    extra = {"image_grid_pinpoints": GRID} if kind == "llava_next" else {}
    config = config_class(vision_config=vision, text_config=text, image_token_index=IMAGE, pad_token_id=PAD, **extra)
    model = cls(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2 if "vision_tower" in name else 0.1)
    model.save_pretrained(folder)
    rename(folder / "model.safetensors", names, model)
    write_tokenizer(folder)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = {"image_processor_type": PROCESSORS[kind], "do_pad": True} | size | extra
    write_json(folder / "preprocessor_config.json", processor)
    return folder


def rename(path: Path, names: str, model) -> None:
    """Rewrite the weights under the names of the published files, or under those of the modules."""
    if names == "old":
        saved = load_file(path)
        tower, inside = "vision_tower.", "vision_tower.vision_model."
        weights = {inside + k.removeprefix(tower) if k.startswith(tower) else k: v for k, v in saved.items()}
        buffer = {"vision_tower.vision_model.embeddings.position_ids": torch.arange(17)}
        save_file(weights | buffer, path)
    elif names == "new":
        save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of 800 pieces, with <image> and <pad> after them, as published."""
    load_script("make_random_checkpoint").write_llama_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(i): {"content": name} | special for i, name in enumerate(("<unk>", "<s>", "</s>"))}
    added |= {str(IMAGE): {"content": "<image>"} | special, str(PAD): {"content": "<pad>"} | special}
    values = {"added_tokens_decoder": added, "pad_token": "<pad>", "padding_side": "left", "sp_model_kwargs": {}}
    values |= {"image_token": "<image>", "extra_special_tokens": {"image_token": "<image>"}, "add_prefix_space": True}
    values |= {"processor_class": "LlavaProcessor", "trust_remote_code": False, "model_max_length": 10**30}
    write_json(path, json.loads(path.read_text()) | values)
    write_json(folder / "added_tokens.json", {"<image>": IMAGE, "<pad>": PAD})
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PAD})


def copy_with(folder: Path, target: Path, **config) -> Path:
    """A copy of a checkpoint with other keys in its config; None removes one."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    values = json.loads(path.read_text()) | config
    write_json(path, {key: value for key, value in values.items() if value is not None})
    return target


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2))
