"""A checkpoint in LLaVA's layout -> in transformers' own, and back: the weights bit for bit, one file at a time."""

import copy
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionModel

from llava.checkpoints.folders import new_checkpoint
from llava.checkpoints.hf.chat_template import to_chat_template
from llava.checkpoints.hf.config import is_hf_folder, to_hf_config, to_hf_processor
from llava.checkpoints.hf.names import to_hf_name, to_llava_names
from llava.checkpoints.hf.tokenizer import PAD, image_and_pad, write_hf_tokenizer, write_llava_tokenizer
from llava.checkpoints.schemas import GenerationFile, read_checked, read_image_processor_values
from llava.checkpoints.weight_files import (
    StateDict,
    find_weight_files,
    read_weight_file,
    read_weights,
    require_listed,
)
from llava.checkpoints.weights import (
    OLD_BUFFERS,
    TOWER_PREFIX,
    find_not_finite,
    of_vision,
    published_values,
    require_fit,
)
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import get_conversation
from llava.errors import InputError
from llava.files import read_json_object, require_new_folder, write_json
from llava.model.builder import CheckedFolder
from llava.model.loading import uses_tower_inside
from llava.model.multimodal_encoder.builder import build_vision_tower

TOWER_FOLDER = "vision_tower"
_INSIDE = f"{TOWER_PREFIX}vision_model."
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
_ROWS_TOGETHER = 64  # the published embeddings in transformers' layout have a multiple of so many rows


def convert_checkpoint(source: str, target: Path, layout: str, max_shard_size: int) -> None:
    """Write the checkpoint `source`, a folder or hub id, into the new folder `target` in another layout.

    Args:
        layout: "hf" for transformers' own classes, "llava" for LLaVA's.
        max_shard_size: bytes of a weight file; at most so many are in memory, and those of one file of `source`.

    The folder appears when it is complete. Raises InputError, naming the cause, if `target` exists, `source` cannot be
    loaded, is in that layout already, or has something that the other layout has no place for.
    """
    require_new_folder(target)
    checked = CheckedFolder.read(source)
    if is_hf_folder(checked.folder) == (layout == "hf"):
        raise InputError(f"{checked.folder} is in this layout already")
    with new_checkpoint(target) as part:
        (_write_hf if layout == "hf" else _write_llava)(checked, part, max_shard_size)


def _write_hf(checked: CheckedFolder, target: Path, max_shard_size: int) -> None:
    folder, config, tokenizer = checked.folder, checked.config, checked.tokenizer
    tower = build_vision_tower(config, folder, delay_load=True)
    image, pad = image_and_pad(tokenizer)
    rows = max(config.vocab_size, image + 1, pad + 1)
    if rows > config.vocab_size:
        rows = -(-rows // _ROWS_TOGETHER) * _ROWS_TOGETHER
    values = to_hf_config(config, read_json_object(folder / "config.json", "config"), tower, (image, pad, rows))
    images, processor = to_hf_processor(
        values, read_image_processor_values(Path(tower.vision_tower_name)), config.image_aspect_ratio == "pad"
    )
    write_hf_tokenizer(tokenizer, folder, target, processor["processor_class"], config.max_position_embeddings)
    source = WeightSource(checked)
    inside = source.read_tower()
    if not uses_tower_inside(config, folder, inside, tower.vision_tower_name):
        inside = read_weights(tower.vision_tower_name)
    inside = fitting_tower(inside, tower)
    # New tokens repeat the row of one that is never the best choice, so that they never are either.
    like = next((number for number in (tokenizer.unk_token_id, tokenizer.bos_token_id) if number is not None), 0)
    language_model = ((name, _resize(name, tensor, rows, like)) for name, tensor in source.stream())
    weights = chain(language_model, ((_INSIDE + name, tensor) for name, tensor in inside.items()))
    _write_weights(((to_hf_name(name), tensor) for name, tensor in weights), target, max_shard_size)
    _write_generation_config(folder, target, pad)
    write_json(target / "preprocessor_config.json", images)
    write_json(target / "processor_config.json", processor)
    conversation = get_conversation(checked.family.conv_mode_of(folder.name))
    (target / "chat_template.jinja").write_text(to_chat_template(conversation), encoding="utf-8")
    write_json(target / "config.json", values)


def _write_llava(checked: CheckedFolder, target: Path, max_shard_size: int) -> None:
    folder, config = checked.folder, checked.config
    given = read_json_object(folder / "config.json", "config")
    tower = build_vision_tower(config, folder, delay_load=True)
    rows = _rows_without_image(checked, given)
    values = given.get("llava_config")
    if values is None:
        written = copy.deepcopy(config)
        is_tuned = config.image_aspect_ratio == "anyres"  # as LLaVA-1.6 was trained
        written.update({"unfreeze_mm_vision_tower": is_tuned, "vocab_size": rows, "architectures": None})
        dtype = given.get("torch_dtype") or given.get("dtype") or "float16"
        values = published_values(written, checked.family.causal_lm.__name__, dtype)
        values["model_type"] = checked.family.model_types[0]
    write_llava_tokenizer(folder, target)
    source = WeightSource(checked)
    inside = fitting_tower(source.read_tower(), tower)
    language_model = ((name, _resize(name, tensor, rows, 0)) for name, tensor in source.stream())
    weights = chain(language_model, ((_INSIDE + name, tensor) for name, tensor in inside.items()))
    _write_weights(weights, target, max_shard_size)
    _write_tower(tower, inside, target / TOWER_FOLDER)
    _write_generation_config(folder, target, 0)
    write_json(target / "config.json", values | {"mm_vision_tower": TOWER_FOLDER})


def _rows_without_image(checked: CheckedFolder, values: dict) -> int:
    """The rows of the embeddings in LLaVA's layout: without those of `<image>`, `<pad>` and what fills them up."""
    if (kept := values.get("llava_config")) is not None:
        rows = kept.get("vocab_size") if isinstance(kept, dict) else None
        if not isinstance(rows, int) or not 0 < rows <= checked.config.vocab_size:
            raise InputError(f"llava_config of {checked.folder} has vocab_size {rows}")
        return rows
    image = values.get("image_token_index", values.get("image_token_id", checked.config.vocab_size))
    added = {token for token, number in checked.tokenizer.get_vocab().items() if number >= image}
    return image if added <= {DEFAULT_IMAGE_TOKEN, PAD} else checked.config.vocab_size


class WeightSource:
    """The weights of a checkpoint in any layout, under their names in LLaVA's.

    Making one raises InputError unless they are exactly those of its model.
    """

    def __init__(self, checked: CheckedFolder) -> None:
        self.files = find_weight_files(checked.folder)
        shapes = {name: tensor.shape for file in self.files for name, tensor in read_weight_file(file).items()}
        require_listed(self.files, shapes)
        where = f"checkpoint {checked.folder.name}"
        is_hf = is_hf_folder(checked.folder)
        self.names = to_llava_names(shapes, where) if is_hf else {name: name for name in shapes}
        self.names = {own: name for own, name in self.names.items() if not OLD_BUFFERS.search(name)}
        without_memory = {
            name: torch.empty(shapes[own], device="meta")
            for own, name in self.names.items()
            if not name.startswith(TOWER_PREFIX)
        }
        require_fit(checked.family.causal_lm, checked.config, without_memory, where)

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor of every weight but the tower's; one file is open at a time."""
        for file in self.files:
            for own, tensor in read_weight_file(file).items():
                name = self.names.get(own, TOWER_PREFIX)
                if not name.startswith(TOWER_PREFIX):
                    yield name, tensor

    def read_tower(self) -> StateDict:
        """The tower's weights, without prefix."""
        return {
            self.names[own].removeprefix(TOWER_PREFIX): tensor
            for file in self.files
            for own, tensor in read_weight_file(file).items()
            if self.names.get(own, "").startswith(TOWER_PREFIX)
        }


def fitting_tower(weights: StateDict, tower) -> StateDict:
    """A tower's weights under CLIP's own names. Raises InputError unless they are exactly those of its config."""
    weights = {name: tensor for name, tensor in of_vision(weights).items() if not OLD_BUFFERS.search(name)}
    return require_fit(CLIPVisionModel, tower.config, weights, f"vision tower {tower.vision_tower_name}")


def _resize(name: str, tensor: torch.Tensor, rows: int, like: int) -> torch.Tensor:
    """A weight with `rows` rows if it has one for each token: fewer, or more that repeat row `like`."""
    if name not in _VOCABULARY:
        return tensor
    more = rows - len(tensor)
    return torch.cat([tensor, tensor[like].expand(more, -1)]) if more > 0 else tensor[:rows]


def _write_weights(weights: Iterable[tuple[str, torch.Tensor]], folder: Path, max_shard_size: int) -> None:
    """Write tensors as safetensors: one file, or several of at most `max_shard_size` bytes with an index.

    Raises InputError for a value that is not finite.
    """
    files: list[list[str]] = []
    shard: StateDict = {}
    size = total = 0

    def write() -> None:
        save_file(shard, folder / f"{len(files)}.safetensors", metadata={"format": "pt"})
        files.append(list(shard))
        shard.clear()

    for name, tensor in weights:
        if find_not_finite({name: tensor}):
            raise InputError(f"{name} has values that are not finite")
        if shard and size + tensor.nbytes > max_shard_size:
            write()
            size = 0
        shard[name] = tensor.clone(memory_format=torch.contiguous_format)
        size, total = size + tensor.nbytes, total + tensor.nbytes
    write()
    count, weight_map = len(files), {}
    for i, names in enumerate(files):
        name = f"model-{i + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
        (folder / f"{i}.safetensors").rename(folder / name)
        weight_map |= dict.fromkeys(names, name)
    if count > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _write_tower(tower, weights: StateDict, folder: Path) -> None:
    """Write a vision tower's own folder, in CLIP's format."""
    folder.mkdir()
    _write_weights(((f"vision_model.{name}", tensor) for name, tensor in weights.items()), folder, sys.maxsize)
    images = read_image_processor_values(Path(tower.vision_tower_name))
    own = {"image_grid_pinpoints", "do_pad", "processor_class"}
    images = {key: value for key, value in images.items() if key not in own}
    write_json(folder / "preprocessor_config.json", images | {"image_processor_type": "CLIPImageProcessor"})
    config = tower.config.to_diff_dict() | {"model_type": tower.config.model_type}
    write_json(folder / "config.json", config | {"architectures": [CLIPVisionModel.__name__]})


def _write_generation_config(source: Path, target: Path, pad: int) -> None:
    path = source / "generation_config.json"
    if path.exists():
        values = read_checked(path, "generation config", GenerationFile)
        values.pop("max_length", None)  # the length of the context, which transformers takes for a wish
        write_json(target / path.name, values | {"pad_token_id": pad})
