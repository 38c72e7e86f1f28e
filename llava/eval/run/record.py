"""What a run notes beside its answers, in `NAME.run.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava.machine import cores, device_name, versions
from llava.pruning.method import method_label
from llava.pruning.settings import CROP, IMAGE

if TYPE_CHECKING:
    from llava.eval.run.jobs import Job
    from llava.model.builder import LoadedModel


def describe(job: Job, loaded: LoadedModel) -> dict:
    """What a run did: how visual tokens were chosen, how many of each crop or image, how long it took, and on what.

    `mean_kept` is the mean over the pictures that this process was asked about, of all crops of a picture together;
    None where it was asked about none.
    """
    pruning, patches = job.pruning, loaded.model.get_vision_tower().num_patches
    is_of_image = pruning.prunes and pruning.budget_per == IMAGE
    return {
        "pruning_method": method_label(pruning.pruning_method) if pruning.prunes or pruning.is_blind else "none",
        # Of as many patches as the image's crops have, where the budget is that of an image.
        "kept": pruning.visual_token_num if is_of_image else pruning.left(patches),
        "budget_per": IMAGE if is_of_image else CROP,
        "mean_kept": _mean_kept(job, patches),
        "answered": len(job.missing),
        "seconds": round(job.seconds, 2),
        "device": device_name(str(loaded.model.device)),
        "cores": cores(),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "versions": versions(),
    }


def _mean_kept(job: Job, patches: int) -> float | None:
    pruning, kept, pictures = job.pruning, 0, 0
    for (visual, of), prompts in job.shown.items():
        left = pruning.left_in_decoder(visual, patches) if pruning.prunes_in_decoder else visual
        kept, pictures = kept + left * prompts, pictures + of * prompts
    return round(kept / pictures, 2) if pictures else None
