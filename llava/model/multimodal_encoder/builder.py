"""The vision tower that a LLaVA config names.

A tower is one file of this folder. It defines `TOWER`, a `VisionTower` (see vision_tower.py) with its classes of
transformers and `encode(pixels) -> Views`, or the two halves of it, `run` and `views`, so that it can be recorded. Its
image processor has `side`, `shorter_side`, `central_square` and `padded_square`.
"""

import sys
from functools import cache
from pathlib import Path

from llava.checkpoints.folders import find_folder
from llava.checkpoints.schemas import tower_model_type
from llava.errors import InputError
from llava.files import read_json_object
from llava.model.multimodal_encoder.vision_tower import VisionTower
from llava.pruning.method import discover


@cache
def known_towers() -> dict[str, type[VisionTower]]:
    """The tower of each `model_type` of a vision config. Raises ValueError for one that two files claim."""
    return discover(sys.modules[__package__], "TOWER", lambda tower: tower.MODEL_TYPES)


def open_vision_tower(folder: Path, args, delay_load: bool = False) -> VisionTower:
    """The tower in a folder, of the class that its config's `model_type` says; `args` as in the towers' classes.

    The folder may be that of a model with a language side too, whose config then has the tower's as `vision_config`.

    Raises InputError for a `model_type` that no tower here reads.
    """
    model_type = tower_model_type(read_json_object(folder / "config.json", "config"))
    tower = known_towers().get(str(model_type))
    if tower is None:
        known = " or ".join(dict.fromkeys(tower.NAME for tower in known_towers().values()))
        raise InputError(f"the vision tower {folder} is not {known} but {model_type!r}")
    return tower(folder, args, delay_load)


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
