"""The vision tower that a LLaVA config names.

A tower is one file `*_encoder.py` of this folder. It defines `NAME`, for messages, `MODEL_TYPES`, the `model_type`
values of the configs that it reads, and `TOWER`, its class: an `nn.Module` made from (folder, args, delay_load), with
`load_model`, `image_processor` (which has `side`, `shorter_side` and `central_square`), `select_feature`,
`hidden_size`, `image_size`, `num_patches`, `num_patches_per_side`, and `encode(pixels) -> Views`.
"""

import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

from torch import nn

from llava.model.folders import find_folder
from llava.model.schemas import tower_model_type
from llava.utils import InputError, read_json_object

_TOWERS: tuple[ModuleType, ...] = tuple(
    import_module(f"{__package__}.{module.name}")
    for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    if module.name.endswith("_encoder")
)


def open_vision_tower(folder: Path, args, delay_load: bool = False) -> nn.Module:
    """The tower in a folder, of the class that its config's `model_type` says; `args` as in the towers' classes.

    The folder may be that of a model with a language side too, whose config then has the tower's as `vision_config`.

    Raises InputError for a `model_type` that no tower here reads.
    """
    model_type = tower_model_type(read_json_object(folder / "config.json", "config"))
    for module in _TOWERS:
        if model_type in module.MODEL_TYPES:
            return module.TOWER(folder, args, delay_load)
    known = " or ".join(module.NAME for module in _TOWERS)
    raise InputError(f"the vision tower {folder} is not {known} but {model_type!r}")


def build_vision_tower(vision_tower_cfg, checkpoint: Path | None = None, delay_load: bool = False) -> nn.Module:
    """The tower `vision_tower_cfg.mm_vision_tower`: a path relative to the folder `checkpoint`, a path, or a hub id.

    Raises InputError if the tower is not there or its width is not what the projector takes (`mm_hidden_size`).
    """
    folder = find_folder(vision_tower_cfg.mm_vision_tower, "vision tower", relative_to=checkpoint)
    tower = open_vision_tower(folder, vision_tower_cfg, delay_load)
    if tower.hidden_size != vision_tower_cfg.mm_hidden_size:
        raise InputError(
            f"the vision tower {folder} has {tower.hidden_size} channels, "
            f"the checkpoint's mm_hidden_size is {vision_tower_cfg.mm_hidden_size}"
        )
    return tower
