"""A LLaVA checkpoint in either layout -> the folder that vLLM serves it from. This file does not import vLLM."""

import copy
import json
import shutil
from pathlib import Path

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llava.checkpoints.folders import get_model_name_from_path
from llava.checkpoints.hf.chat_template import to_chat_template
from llava.checkpoints.hf.config import to_hf_config, to_hf_processor
from llava.checkpoints.hf.tokenizer import image_and_pad, write_hf_tokenizer
from llava.checkpoints.schemas import GenerationFile, read_checked, read_image_processor_values
from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.checkpoints.weight_files import WEIGHT_FILES, find_weight_files, read_weights
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import CHAT_TEMPLATE
from llava.errors import InputError, one_line
from llava.files import read_json_object, write_json
from llava.integrations.vllm import ARCHITECTURE, TOWER_FOLDER
from llava.model.builder import CheckedFolder
from llava.model.converting import WeightSource, fitting_tower
from llava.model.loading import stop_at_turns, uses_tower_inside
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.template import Template, find_template
from llava.vision.grids import is_anyres, parse_grid_pinpoints

_PAPERS_GRID = "--mm_patch_merge_type spatial --image_grid_pinpoints '[[672, 672]]'"


def prepare(
    source: str, target: Path, conv_mode: str | None = None, overrides: dict | None = None, overwrite: bool = False
) -> None:
    """Write the folder `target`, from which vLLM serves the checkpoint `source`.

    Args:
        source: folder or hub id; its weights are linked to.
        conv_mode: the prompt template; that of the checkpoint's published figures if None.
        overrides: keys of the checkpoint's config to set, `mm_patch_merge_type` and `image_grid_pinpoints`.
        overwrite: replace `target` if it is a folder that this function wrote.

    Raises InputError, naming the cause, if `target` exists, `source` cannot be loaded, or vLLM cannot serve it so.
    """
    if (target.exists() or target.is_symlink()) and not (overwrite and _is_prepared(target)):
        raise InputError(f"{target} exists already: remove it, or choose another folder")
    checked = CheckedFolder.read(source, overrides=overrides)
    chosen = _choose_template(source, checked, conv_mode)
    part = target.with_name(target.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(checked, part, chosen)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {one_line(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_prepared(folder: Path) -> bool:
    path = folder / "config.json"
    return path.exists() and read_json_object(path, "config").get("architectures") == [ARCHITECTURE]


def _choose_template(source: str, checked: CheckedFolder, wanted: str | None) -> Template:
    """The prompt template. Raises InputError for a tokenizer's own, which is not LLaVA's way to mark pictures."""
    template = find_template(get_model_name_from_path(source), checked.config.model_type, wanted, source)
    if template.name == CHAT_TEMPLATE:
        raise InputError(
            f"{source} has the chat template of its tokenizer, which says nothing of pictures: --conv-mode"
        )
    return template


def _write(checked: CheckedFolder, target: Path, asked: Template) -> None:
    folder, config = checked.folder, checked.config
    _refuse(config)
    tower = build_vision_tower(config, folder, delay_load=True)
    image, _ = image_and_pad(checked.tokenizer)
    values = _to_config(config, read_json_object(folder / "config.json", "config"), tower, image)
    images, processor = to_hf_processor(values, read_image_processor_values(Path(tower.vision_tower_name)), False)
    write_hf_tokenizer(checked.tokenizer, folder, target, "LlavaProcessor", config.max_position_embeddings)
    template = _chat_template(checked.tokenizer, target, asked, image)
    source = WeightSource(checked)
    values["tower_folder"] = _link_weights(source, config, folder, tower, target)
    values["unknown_token"] = _unknown_token(checked.tokenizer)
    write_json(target / "preprocessor_config.json", images)
    write_json(target / "processor_config.json", processor)
    _write_generation_config(folder, target, checked.tokenizer, config)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(target / "config.json", values)


def _refuse(config: PreTrainedConfig) -> None:
    """Raise InputError, naming the key, for what cannot be served so."""
    if config.mm_vision_select_feature != "patch":
        raise InputError(f"pruning needs mm_vision_select_feature 'patch', not {config.mm_vision_select_feature!r}")
    if "unpad" in config.mm_patch_merge_type:
        raise InputError(
            f"mm_patch_merge_type {config.mm_patch_merge_type!r} keeps a number of visual tokens that depends on which "
            f"patches are chosen, and vLLM must know it before: see {_PAPERS_GRID}, the paper's setting"
        )


def _to_config(config: PreTrainedConfig, given: dict, tower, image: int) -> dict:
    """The values of `config.json`: those of transformers' own LLaVA, and LLaVA's of how pictures are cut and joined."""
    one_crop = copy.deepcopy(config)
    one_crop.update({"image_aspect_ratio": "pad", "mm_patch_merge_type": "flat"})
    values = to_hf_config(one_crop, given, tower, (image, config.pad_token_id, config.vocab_size))
    del values["llava_config"], values["pad_token_id"]
    language_model = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[values["text_config"]["model_type"]]
    values["text_config"]["architectures"] = [language_model]
    grid = config.image_grid_pinpoints if is_anyres(config.image_aspect_ratio) else None
    return values | {
        "architectures": [ARCHITECTURE],
        "image_aspect_ratio": config.image_aspect_ratio,
        "image_grid_pinpoints": grid and parse_grid_pinpoints(grid, tower.image_size),
        "mm_patch_merge_type": config.mm_patch_merge_type,
    }


def _unknown_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that stands for what has no embedding."""
    return next((number for number in (tokenizer.unk_token_id, tokenizer.bos_token_id) if number is not None), 0)


def _chat_template(tokenizer: PreTrainedTokenizerBase, target: Path, asked: Template, image: int) -> str:
    """The prompt template as Jinja, with the BOS that vLLM leaves to it.

    Raises InputError if the tokenizer that was written to `target` does not make the checkpoint's own ids of a prompt.
    """
    template = to_chat_template(asked.conversation())
    written = PreTrainedTokenizerFast.from_pretrained(target)
    prompt = asked.prompt(f"{DEFAULT_IMAGE_TOKEN}\nIs there a dog? (yes/no) 12")
    wanted = tokenizer_image_token(prompt, tokenizer, image)
    # Some tokenizers put a space in front of a text, but not after a BOS that is written in it.
    bos = tokenizer.bos_token or ""
    for begin in ("", bos, f"{bos} "):
        if written(begin + prompt, add_special_tokens=False).input_ids == wanted:
            return f"{{{{- {json.dumps(begin)} -}}}}\n{template}" if begin else template
    raise InputError(f"the tokenizer cannot be written for vLLM: it makes other ids of a prompt in {asked.name}")


def _link_weights(source: WeightSource, config: PreTrainedConfig, folder: Path, tower, target: Path) -> bool:
    """Link to the weights, and to those of the tower's own folder where they are the model's. Returns whether so.

    Raises InputError unless the tower's weights are those of its config.
    """
    _link(source.files, target)
    inside = source.read_tower()
    is_inside = uses_tower_inside(config, folder, inside, tower.vision_tower_name)
    fitting_tower(inside if is_inside else read_weights(tower.vision_tower_name), tower)
    if is_inside:
        return False
    own = target / TOWER_FOLDER
    own.mkdir()
    _link(find_weight_files(tower.vision_tower_name), own)
    return True


def _link(files: list[Path], target: Path) -> None:
    """Links in the folder `target` to weight files, and to their index."""
    indexes = [
        files[0].with_name(index) for index, _ in WEIGHT_FILES if index.endswith(f"{files[0].suffix}.index.json")
    ]
    for file in (*files, *indexes):
        if file.exists():
            (target / file.name).symlink_to(file.resolve())


def _write_generation_config(
    folder: Path, target: Path, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> None:
    """The checkpoint's generation config with all tokens that an answer ends at."""
    path = folder / "generation_config.json"
    values = read_checked(path, "generation config", GenerationFile) if path.exists() else {}
    generation = GenerationConfig(eos_token_id=values.get("eos_token_id", config.eos_token_id))
    stop_at_turns(generation, tokenizer)
    kept = {name: values[name] for name in ("temperature", "top_p", "top_k", "repetition_penalty") if name in values}
    write_json(target / "generation_config.json", kept | {"eos_token_id": generation.eos_token_id})
