"""A language model gets its vision side, as clients of upstream's two methods make one.

`llava.train` plans a whole run instead, and checks it before weights are read.
"""

from copy import deepcopy
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llava.checkpoints.folders import find_folder
from llava.checkpoints.weight_files import read_weight_file
from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.errors import InputError, list_some
from llava.model.multimodal_encoder.builder import open_vision_tower
from llava.model.multimodal_projector.builder import build_vision_projector

_OPTIONS = ("mm_vision_select_layer", "mm_vision_select_feature", "mm_projector_type", "mm_patch_merge_type")


def add_vision_modules(model: nn.Module, model_args) -> None:
    """Give the decoder stack `model` the tower and the projector that `model_args` name, the projector trainable.

    Args:
        model_args: has `vision_tower` and, where they are not to be the config's, `mm_vision_select_layer`,
            `mm_vision_select_feature`, `mm_projector_type` and `mm_patch_merge_type`; with `pretrain_mm_mlp_adapter`
            the projector starts from that file. An existing projector is kept.

    Raises InputError if the tower or the file cannot be read, or they do not fit the model, which then is as it was.
    """
    values = {name: value for name in _OPTIONS if (value := getattr(model_args, name, None)) is not None}
    values["mm_vision_tower"] = str(model_args.vision_tower)
    config, like = deepcopy(model.config), model.embed_tokens.weight
    config.update(values)
    tower = open_vision_tower(find_folder(config.mm_vision_tower, "vision tower"), config)
    config.mm_hidden_size = values["mm_hidden_size"] = tower.hidden_size
    projector = getattr(model, "mm_projector", None) or build_vision_projector(config)
    if path := getattr(model_args, "pretrain_mm_mlp_adapter", None):
        _load(projector, Path(path))
    model.config.update(values)
    model.vision_tower = tower.to(like.device, like.dtype)
    model.mm_projector = projector.to(like.device, like.dtype).requires_grad_(True)
    if "unpad" in config.mm_patch_merge_type and not hasattr(model, "image_newline"):
        newline = torch.randn(config.hidden_size, device=like.device, dtype=like.dtype)
        model.image_newline = nn.Parameter(newline / config.hidden_size**0.5)


def _load(projector: nn.Module, path: Path) -> None:
    """A projector's weights from an `mm_projector.bin`. Raises InputError if they are not those of this projector."""
    weights = {name.partition("mm_projector.")[2]: tensor for name, tensor in read_weight_file(path).items()}
    weights = {name: tensor for name, tensor in weights.items() if name}
    given, own = ({name: tuple(t.shape) for name, t in part.items()} for part in (weights, projector.state_dict()))
    if given != own:
        wrong = [name for name in given | own if given.get(name) != own.get(name)]
        raise InputError(f"the projector {path} does not fit the model: {list_some(wrong)}")
    projector.load_state_dict(weights)


def add_vision_tokens(model: PreTrainedModel, model_args, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give tokenizer and model the tokens around images that `model_args` (`mm_use_im_start_end`,
    `mm_use_im_patch_token`) ask for; the embeddings of new ones are the mean of the others.
    """
    with_patch = getattr(model_args, "mm_use_im_patch_token", False)
    with_ends = getattr(model_args, "mm_use_im_start_end", False)
    tokens = [DEFAULT_IMAGE_PATCH_TOKEN] * with_patch + [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN] * with_ends
    known = len(tokenizer)
    tokenizer.add_tokens(tokens, special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for embeddings in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        with torch.no_grad():
            embeddings[known : len(tokenizer)] = embeddings[:known].mean(dim=0)
    model.config.mm_use_im_patch_token, model.config.mm_use_im_start_end = bool(with_patch), bool(with_ends)
    if getattr(model_args, "tune_mm_mlp_adapter", False) and len(tokenizer) > known:
        model.get_input_embeddings().requires_grad_(True)
        model.get_output_embeddings().requires_grad_(False)
