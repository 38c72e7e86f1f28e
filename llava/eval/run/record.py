"""What a run notes beside its answers, in `NAME.run.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava.machine import cores, device_name, versions
from llava.pruning.method import method_label
from llava.pruning.settings import CROP, IMAGE, Settings

if TYPE_CHECKING:
    from collections import Counter

    from llava.model.builder import LoadedModel


def describe(
    pruning: Settings, loaded: LoadedModel, shown: Counter[tuple[int, int]], answered: int, seconds: float
) -> dict:
    """What a run did: how visual tokens were chosen, how many of each crop or image, how long it took, and on what.

    `shown` says how many prompts this process answered with so many visual tokens of so many pictures. `mean_kept` is
    the mean over these pictures, of all crops of a picture together; None where there was none.
    """
    patches = loaded.model.get_vision_tower().num_patches
    is_of_image = pruning.prunes and pruning.budget_per == IMAGE
    return {
        "pruning_method": method_label(pruning.pruning_method) if pruning.prunes or pruning.is_blind else "none",
        # Of as many patches as the image's crops have, where the budget is that of an image.
        "kept": pruning.visual_token_num if is_of_image else pruning.left(patches),
        "budget_per": IMAGE if is_of_image else CROP,
        "mean_kept": _mean_kept(pruning, shown, patches),
        "answered": answered,
        "seconds": round(seconds, 2),
        "device": device_name(str(loaded.model.device)),
        "cores": cores(),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "versions": versions(),
    }


def _mean_kept(pruning: Settings, shown: Counter[tuple[int, int]], patches: int) -> float | None:
    kept, pictures = 0, 0
    for (visual, of), prompts in shown.items():
        left = pruning.left_in_decoder(visual, patches) if pruning.prunes_in_decoder else visual
        kept, pictures = kept + left * prompts, pictures + of * prompts
    return round(kept / pictures, 2) if pictures else None
