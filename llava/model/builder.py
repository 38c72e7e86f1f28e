"""A path -> tokenizer, model, image processor, context length: the one door to a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llava.checkpoints.folders import find_folder, get_model_name_from_path
from llava.checkpoints.hf.config import model_type_of
from llava.errors import InputError
from llava.files import read_json_object
from llava.model.families import Family, find_family
from llava.model.load_options import LoadOptions
from llava.model.loading import (
    load_image_tokenizer,
    load_llava,
    read_config,
    read_config_file,
    set_generation_defaults,
)
from llava.model.lora import is_lora, read_lora_config
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.placement import Placement
from llava.model.template import Template, find_template
from llava.pruning import load_method
from llava.pruning.settings import take_settings


class LoadedModel(tuple):
    """A checkpoint, ready to answer. It unpacks as upstream's four.

    Attributes:
        tokenizer: with the checkpoint's image tokens.
        model: in eval mode.
        image_processor: the vision tower's.
        context_len: tokens that prompt and answer may have together.
        template: the prompt template of the checkpoint's published figures.
    """

    def __new__(cls, tokenizer, model, image_processor, context_len: int, template: Template | None = None):
        return super().__new__(cls, (tokenizer, model, image_processor, context_len))

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
        image_processor: object,
        context_len: int,
        template: Template | None = None,
    ) -> None:
        """Without a `template`, it is found by the model's config."""
        self.tokenizer, self.model, self.image_processor, self.context_len = self
        self.template = template or self.find_template()

    def find_template(self, wanted: str | Template | None = None, as_upstream: bool = False) -> Template:
        """The prompt template that is wanted, or the default; see `template.find_template`."""
        config = self.model.config
        path = str(config.name_or_path)
        return find_template(get_model_name_from_path(path), config.model_type, wanted, path, as_upstream)


def as_loaded(model) -> LoadedModel:
    """What is taken for a loaded model: a `LoadedModel`, upstream's four, or a LLaVA model that was loaded alone.

    Raises InputError where the checkpoint of a model alone is not known.
    """
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, tuple | list):
        return LoadedModel(*model)
    if not model.config.name_or_path:
        raise InputError("config.name_or_path of the model is empty: give what load_pretrained_model returned")
    return complete(model)


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
    compile: bool = False,
    compile_decoding: bool = False,
    attn_implementation: str | None = None,
    **kwargs,
) -> LoadedModel:
    """Load a LLaVA checkpoint for inference.

    Args:
        model_path: folder or hub id in the format of liuhaotian/llava-v1.5-7b or of llava-hf/llava-1.5-7b-hf; with
            `model_base`, of a projector alone (`config.json` and `mm_projector.bin`) or of LoRA, which is merged.
        model_base: folder or hub id of the language model that such a checkpoint was trained on.
        model_name: the checkpoint's name, as messages are to give it.
        load_8bit, load_4bit: quantize the language model with bitsandbytes (the extra `quant`).
        device_map: as in accelerate; `auto` spreads the language model over the visible GPUs.
        device: where everything goes if it is not "cuda"; "cuda" without a GPU becomes the CPU, with a message.
        use_flash_attn: same as attn_implementation="flash_attention_2".
        compile: on a GPU, run vision tower, selection, projection, prefill and each token's step as CUDA graphs (see
            `llava.model.graphs`); on the CPU the same code runs without them. Answers stay the same.
        compile_decoding: its former name.
        attn_implementation: as in transformers, for language model and vision tower.
        kwargs: the model's own settings, those of `llava.pruning.Settings`, such as `visual_token_num`; `dtype` or
            `torch_dtype`, the weights' (float16 on a GPU and float32 on the CPU without one, "auto" for the
            checkpoint's own); `quantization_config`; `cache_dir`; what else `load_options` takes; and config keys to
            override, such as `mm_patch_merge_type` and `image_grid_pinpoints`, as keywords or as a dict
            `overwrite_config` or `customized_config`.

    Raises:
        InputError: naming what is wrong with the checkpoint or an option.
        ValueError: for an impossible pruning setting.
        TypeError: for a keyword that is neither an option nor a config key.
    """
    pruning = take_settings(kwargs)
    method = load_method(pruning.pruning_method)  # one that cannot be imported shows here, not after the weights
    attn_implementation = "flash_attention_2" if use_flash_attn else attn_implementation
    options = LoadOptions.from_keywords(kwargs)
    bits = options.quantization_config, load_8bit, load_4bit
    placement = Placement.from_options(device_map, device, options.dtype, attn_implementation, *bits)
    checked = CheckedFolder.read(str(model_path), model_base, options.overrides, options.cache_dir)
    if is_lora(checked.folder) and placement.quantization_config:
        raise InputError("LoRA is merged before a model is quantized: see scripts/merge_lora_weights.py")
    folder, tokenizer, config = checked.folder, checked.tokenizer, checked.config
    model = load_llava(checked.family.causal_lm, config, folder, placement, checked.base)
    model.config.name_or_path = str(model_path)
    set_generation_defaults(model, tokenizer, folder)
    model.pruning, model.records, model.tokenizer = pruning, compile or compile_decoding, tokenizer
    if "text_embeds" in method.needs:
        _ = model.get_vision_tower().text_side  # what is missing there shows here, not at the first question
    return LoadedModel(tokenizer, model, model.get_vision_tower().image_processor, config.max_position_embeddings)


@dataclass(frozen=True)
class CheckedFolder:
    """What a checkpoint says of itself, found good. No weights were read, and of a hub id none downloaded.

    Attributes:
        folder, base: of the checkpoint and, if there is one, of its base model.
        family, config: of the checkpoint.
        tokenizer: the base's if there is one, with the image tokens that the checkpoint uses.
    """

    folder: Path
    base: Path | None
    family: Family
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def read(
        cls,
        model_path: str,
        model_base: str | None = None,
        overrides: dict | None = None,
        cache_dir: str | None = None,
    ) -> "CheckedFolder":
        """Read everything but weights in the folders of a checkpoint, its base and its vision tower.

        Raises InputError and TypeError as `load_pretrained_model`.
        """
        folder = find_folder(model_path, "checkpoint", cache_dir=cache_dir)
        base = find_folder(str(model_base), "base model", cache_dir=cache_dir) if model_base else None
        if is_lora(folder):
            if base is None:
                raise InputError(f"{folder} is a LoRA checkpoint: --model-base must name the model that it changes")
            read_lora_config(folder)
        family = read_family(folder)
        if base:
            _require_base(base, family)
        config = read_config(folder, family.causal_lm, overrides or {})
        tokenizer = load_image_tokenizer(family.causal_lm, base or folder, config)
        _ = build_vision_tower(config, folder, delay_load=True).image_processor
        return cls(folder, base, family, config, tokenizer)


def complete(model: PreTrainedModel) -> LoadedModel:
    """A LLaVA model with the tokenizer of its checkpoint, `config.name_or_path`, and its tower's image processor."""
    folder = find_folder(str(model.config.name_or_path), "checkpoint")
    tokenizer = load_image_tokenizer(type(model), folder, model.config)
    set_generation_defaults(model, tokenizer, folder)
    return LoadedModel(tokenizer, model, model.get_vision_tower().image_processor, model.config.max_position_embeddings)


def read_family(folder: Path) -> Family:
    """The model family of a LLaVA checkpoint. Raises InputError for another model or layout."""
    values = read_config_file(folder)
    architecture, model_type = (values.get("architectures") or [None])[0], values.get("model_type")
    family = find_family(architecture, model_type)
    if family is None:
        raise InputError(f"{folder} is not a LLaVA checkpoint but {architecture or model_type}")
    return family


def _require_base(base: Path, family: Family) -> None:
    """Raise InputError unless a base model's config is of a language model that this family is built on."""
    model_type = model_type_of(read_json_object(base / "config.json", "config"))
    known = {*family.model_types, *(getattr(parent, "model_type", "") for parent in family.config_class.__mro__)}
    if model_type not in known:
        raise InputError(f"the base model {base} is no language model of {family.causal_lm.__name__}: {model_type!r}")
