"""The vision tower that a LLaVA config names."""

from pathlib import Path

from llava.model.checkpoint import find_folder
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.utils import InputError


def build_vision_tower(vision_tower_cfg, checkpoint: Path | None = None, **kwargs) -> CLIPVisionTower:
    """The tower `vision_tower_cfg.mm_vision_tower`: a path relative to the folder `checkpoint`, a path, or a hub id.

    `kwargs` go to `CLIPVisionTower`. Raises InputError if the tower is not there or its width is not what the
    projector takes (`mm_hidden_size`).
    """
    folder = find_folder(vision_tower_cfg.mm_vision_tower, "vision tower", relative_to=checkpoint)
    tower = CLIPVisionTower(folder, args=vision_tower_cfg, **kwargs)
    if tower.hidden_size != vision_tower_cfg.mm_hidden_size:
        raise InputError(
            f"the vision tower {folder} has {tower.hidden_size} channels, "
            f"the checkpoint's mm_hidden_size is {vision_tower_cfg.mm_hidden_size}"
        )
    return tower
