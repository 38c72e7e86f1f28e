"""The vision tower that a LLaVA config names.

A tower is one file `*_encoder.py` of this folder. It defines `TOWER`, a `VisionTower` (see vision_tower.py) with its
classes of transformers and `encode(pixels) -> Views`. Its image processor has `side`, `shorter_side`, `central_square`
and `padded_square`.
"""

import pkgutil
from importlib import import_module
from pathlib import Path

from llava.checkpoints.folders import find_folder
from llava.checkpoints.schemas import tower_model_type
from llava.errors import InputError
from llava.files import read_json_object
from llava.model.multimodal_encoder.vision_tower import VisionTower

_TOWERS: tuple[type[VisionTower], ...] = tuple(
    import_module(f"{__package__}.{module.name}").TOWER
    for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    if module.name.endswith("_encoder")
)


def open_vision_tower(folder: Path, args, delay_load: bool = False) -> VisionTower:
    """The tower in a folder, of the class that its config's `model_type` says; `args` as in the towers' classes.

    The folder may be that of a model with a language side too, whose config then has the tower's as `vision_config`.

    Raises InputError for a `model_type` that no tower here reads.
    """
    model_type = tower_model_type(read_json_object(folder / "config.json", "config"))
    for tower in _TOWERS:
        if model_type in tower.MODEL_TYPES:
            return tower(folder, args, delay_load)
    known = " or ".join(tower.NAME for tower in _TOWERS)
    raise InputError(f"the vision tower {folder} is not {known} but {model_type!r}")


def build_vision_tower(vision_tower_cfg, checkpoint: Path | None = None, delay_load: bool = False) -> VisionTower:
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
