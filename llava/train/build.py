"""Builds the model to train from a language model, a vision tower and a projector."""

import os
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from llava.checkpoints.folders import find_folder
from llava.checkpoints.hf.config import is_hf
from llava.checkpoints.schemas import LlavaFile, read_checked
from llava.checkpoints.weight_files import StateDict, read_weight_file, read_weights
from llava.checkpoints.weights import is_tuned, load_weights, split_tower
from llava.errors import InputError, list_some
from llava.model.families import FAMILIES, Family, find_trained_family
from llava.model.loading import check_picture_options, make_config, set_generation_defaults
from llava.model.multimodal_encoder.builder import open_vision_tower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments
from llava.train.lora import add_lora, quantization, require_packages
from llava.vision.grids import parse_grid_pinpoints, read_grid_pinpoints


class TrainingPlan:
    """A checked plan of a training run: family, config, vision tower and projector.

    Making one reads configs and the projector, but not the weights of the language model and the tower, so that bad
    input is refused within seconds.
    """

    def __init__(self, model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments):
        """Raises InputError if a folder or file is missing, or if they do not fit together."""
        self.model_args, self.training_args = model_args, training_args
        require_packages(training_args)
        self.folder = find_folder(model_args.model_name_or_path, "language model")
        self.family, self.config = _read_config(self.folder)
        self.config.update(_llava_values(model_args, data_args, training_args))
        check_picture_options(self.config)
        self.tower = open_vision_tower(
            _find_tower(model_args.vision_tower, training_args.output_dir), self.config, delay_load=True
        )
        if self.config.image_aspect_ratio == "anyres":
            grid = parse_grid_pinpoints(self.config.image_grid_pinpoints, self.tower.image_size)
            self.config.image_grid_pinpoints = grid
        limit, patches = training_args.model_max_length, self.tower.num_patches
        if patches >= limit:
            raise InputError(f"model_max_length {limit} has no room for an image of {patches} tokens")
        self.config.mm_hidden_size = self.tower.hidden_size
        self.vision_weights = self._vision_weights()

    def _vision_weights(self) -> StateDict:
        """The initial weights of the projector and of the newline of anyres: those given, or random ones."""
        set_seed(self.training_args.seed)
        projector = build_vision_projector(self.config)
        weights = {f"model.mm_projector.{key}": tensor for key, tensor in projector.state_dict().items()}
        if "unpad" in self.config.mm_patch_merge_type:
            weights["model.image_newline"] = torch.randn(self.config.hidden_size) / self.config.hidden_size**0.5
        path = self.model_args.pretrain_mm_mlp_adapter
        if path is None:
            return weights
        given = read_weight_file(Path(path))
        shapes, expected = ({key: tuple(t.shape) for key, t in tensors.items()} for tensors in (given, weights))
        if shapes != expected:
            wrong = {key for key in shapes | expected if shapes.get(key) != expected.get(key)}
            sizes = [f"{key} {shapes.get(key, 'missing')} for {expected.get(key, 'none')}" for key in wrong]
            raise InputError(f"the projector {path} does not fit the model: {list_some(sizes)}")
        return given

    def build(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The model on the CPU, with its vision tower. Trained weights are float32 and require gradients.

        Raises InputError for weights that cannot be read or do not fit the config.
        """
        alone, args = self.model_args.tune_mm_mlp_adapter, self.training_args
        frozen = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        self.tower.load_model()
        if len(tokenizer) > self.config.vocab_size:
            raise InputError(f"the tokenizer has {len(tokenizer)} tokens, the model {self.config.vocab_size}")
        # A LLaVA checkpoint also holds a copy of its tower, which is not needed unless it was tuned.
        weights, tower = split_tower(read_weights(self.folder))
        if tower and is_tuned(tower, self.tower.vision_tower_name):
            raise InputError(
                f"{self.folder} has a vision tower of its own: training on from such a checkpoint is not supported"
            )
        given = self.model_args.pretrain_mm_mlp_adapter is not None
        model = load_weights(
            self.family.causal_lm,
            self.config,
            weights | self.vision_weights if given else self.vision_weights | weights,
            f"language model {self.folder}",
            dtype=frozen if alone or args.lora_enable else torch.float32,
            **quantization(args, frozen),
        )
        if args.lora_enable:
            add_lora(model, args, self.model_args.model_name_or_path)
        if args.bits != 16:  # Trainer leaves a quantized model where it is
            self.tower.to(args.device)
        model.config.pad_token_id = tokenizer.pad_token_id
        set_generation_defaults(model, tokenizer, self.folder)
        model.tokenizer = tokenizer
        model.model.vision_tower = self.tower
        if alone:
            model.requires_grad_(False)
        elif self.model_args.freeze_backbone:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(not name.startswith(self.family.backbone_keys))
        self.tower.requires_grad_(False)
        for name, parameter in model.named_parameters():
            if name.startswith(self.family.projector_keys):
                parameter.data = parameter.data.float()
                parameter.requires_grad_(not args.freeze_mm_mlp_adapter)
        return model


def _read_config(folder: Path) -> tuple[Family, PreTrainedConfig]:
    """The family and the config of a language model that a family can start from, or of a LLaVA made from one."""
    values = read_checked(folder / "config.json", "config", LlavaFile)
    if is_hf(values):
        raise InputError(f"{folder} is in transformers' own layout: scripts/convert_checkpoint.py makes it LLaVA's")
    model_type = values.pop("model_type", None)
    family = find_trained_family((values.get("architectures") or [None])[0], model_type)
    if family is None:
        known = " nor ".join(name for family in FAMILIES for name in family.language_models)
        raise InputError(f"{folder} is neither {known} nor a LLaVA on one of them, but {model_type!r}")
    if values.get("unfreeze_mm_vision_tower"):
        raise InputError(f"{folder} has a vision tower of its own: training on from such a checkpoint is not supported")
    values |= {"architectures": [family.causal_lm.__name__], "_name_or_path": ""}
    return family, make_config(family.causal_lm, values, folder)


def _llava_values(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> dict:
    """The values that LLaVA adds to the language model's config."""
    values = {
        "image_aspect_ratio": data_args.image_aspect_ratio,
        "freeze_mm_mlp_adapter": training_args.freeze_mm_mlp_adapter,
        "mm_projector_type": model_args.mm_projector_type,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": model_args.mm_vision_select_feature,
        "mm_vision_select_layer": model_args.mm_vision_select_layer,
        "mm_vision_tower": model_args.vision_tower,
        "tokenizer_model_max_length": training_args.model_max_length,
        "tokenizer_padding_side": "right",
        "tune_mm_mlp_adapter": model_args.tune_mm_mlp_adapter,
        "unfreeze_mm_vision_tower": False,
    }
    if data_args.image_aspect_ratio == "anyres":
        values["image_grid_pinpoints"] = read_grid_pinpoints(data_args.image_grid_pinpoints)
        values["mm_patch_merge_type"] = model_args.mm_patch_merge_type
    elif model_args.mm_patch_merge_type != "flat" or data_args.image_grid_pinpoints:
        raise InputError("mm_patch_merge_type and image_grid_pinpoints are for --image_aspect_ratio anyres")
    return values


def _find_tower(name: str, output_dir: str) -> Path:
    """The folder of the tower, found the way the checkpoint in `output_dir` will find it; that may not exist yet."""
    beside = Path(os.path.normpath(Path(output_dir) / name))
    return beside if beside.is_dir() else find_folder(name, "vision tower")
