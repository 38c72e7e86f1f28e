"""VisPruner: the most attended patches, and of the rest what is left when near-duplicates are gone.

Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
ICCV 2025, arXiv 2412.01818. int(T * important_ratio) patches are kept for their importance, the attention of [CLS] to
them; the rest of T are those that remain of the others after near-duplicates are removed.

Shapes: B images, N patches, C channels, T kept tokens, R = N less the important patches.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llava.pruning.kernels.cosine import WITHOUT_FLOAT64
from llava.pruning.kernels.duplicates import drop_duplicates
from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens, highest, keep_patches
from llava.pruning.views import Views


@dataclass(frozen=True)
class VisPruner(Method):
    """`in_raster_order` compares the diverse patches in the order of the picture, see `vispruner_stable`."""

    in_raster_order: bool = False
    reads_ratio = True

    def select(self, views: Views, settings: Settings) -> VisualTokens:
        number, ratio = settings.visual_token_num, settings.important_ratio
        patches = select_visual_tokens(views.features, views.importance, number, ratio, self.in_raster_order)
        return VisualTokens(keep_patches(views.features, patches), patches)  # in order: `views.keep` would sort again

    def important(self, views: Views, settings: Settings) -> torch.LongTensor:
        return highest(views.importance.float(), int(settings.visual_token_num * settings.important_ratio))


METHOD = VisPruner()


def select_visual_tokens(
    features: torch.Tensor,
    cls_attention: torch.Tensor,
    visual_token_num: int,
    important_ratio: float = 0.5,
    in_raster_order: bool = False,
) -> torch.LongTensor:
    """Choose the patches of each image that become visual tokens (arXiv 2412.01818, section 3).

    `int(T * important_ratio)` patches are important: those with the highest [CLS] attention. The others fill up with
    what remains of the rest after near-duplicates are removed in rounds. Half-precision input is compared as float32,
    similarities are computed and compared in float64, and every sort is stable (lower position first), so one input
    gives one result whatever the device and the other images of the batch.

    Args:
        features: (B, N, C), any floating dtype: the vision tower's patch features.
        cls_attention: (B, N), any floating dtype: attention of [CLS] to the patches, mean over heads.
        visual_token_num: T, the tokens to keep of each image; all N are kept if T >= N.
        important_ratio: share of T in [0, 1] chosen by attention.
        in_raster_order: compare the others in the order of the picture in every round, see `vispruner_stable`.

    Returns:
        (B, min(T, N)) int64, ascending: indices of the kept patches.

    Raises:
        ValueError: if the budget or the shapes make no sense.
    """
    Settings(visual_token_num, important_ratio)  # raises ValueError for invalid values
    if features.ndim != 3 or cls_attention.shape != features.shape[:2]:
        raise ValueError(
            "features must be (B, N, C) and cls_attention (B, N), "
            f"got {tuple(features.shape)} and {tuple(cls_attention.shape)}"
        )
    batch, patches, _ = features.shape
    if visual_token_num >= patches:
        return torch.arange(patches, device=features.device).repeat(batch, 1)

    home = features.device
    if home.type in WITHOUT_FLOAT64:
        features, cls_attention = features.cpu(), cls_attention.cpu()
    important_num = int(visual_token_num * important_ratio)
    by_attention = cls_attention.float().argsort(dim=1, descending=True, stable=True)
    important, residual = by_attention[:, :important_num], by_attention[:, important_num:]
    if in_raster_order:
        residual = residual.sort(dim=1).values
    similarity = cosine_similarity_matrix(keep_patches(features, residual))
    kept = drop_duplicates(similarity, visual_token_num - important_num, in_raster_order)
    return torch.cat([important, residual.gather(1, kept)], dim=1).sort(dim=1).values.to(home)


def cosine_similarity_matrix(features: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of every pair: (B, R, C) of any floating dtype -> (B, R, R) float64.

    float64 because the rounds amplify rounding: in float32 the scores of two patches often differ by less than the
    error of a dot product, and which of them is dropped, hence all that follows, would depend on the machine's BLAS.
    """
    unit = (features.float() if features.dtype is torch.float64 else features).double()
    unit = F.normalize(unit, dim=-1, out=None if unit.requires_grad else unit)
    return unit @ unit.transpose(1, 2)
