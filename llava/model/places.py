"""Where the visual tokens of an image stand in the sequence that it has unpruned, so that positions can follow that.

"Grounding-Aware Token Pruning: Recovering from Drastic Performance Drops in Visual Grounding Caused by Pruning" (GAP),
arXiv 2506.21873, lets kept tokens have the position ids that they have unpruned. A model has learned how far from a
picture the question about it is; kept tokens that are numbered anew move the two together.

Shapes: K crops, N patches, T kept tokens; L tokens of an image in the language model, newlines among them; D channels.
"""

from dataclasses import dataclass, replace

import torch

from llava.model.anyres import crop_grid, join_crops, row_and_column, shrunk_size
from llava.model.multimodal_encoder.vision_tower import VisionTower
from llava.model.splice import PlacedTokens
from llava.pruning import MergedTokens, VisualTokens
from llava.pruning.settings import AFTER
from llava.vision.grids import anyres_max, unpad_box


def spread_patches(patches: int, number: int) -> list[int]:
    """`number` of so many patches, evenly: floor((i + 0.5) patches / number)."""
    return [(2 * i + 1) * patches // (2 * number) for i in range(number)]


def place_tokens(
    chosen: VisualTokens | MergedTokens,
    positions: str,
    patches: int,
    crops: int = 1,
    *,
    has_crops: bool = False,
    config=None,
    tower: VisionTower | None = None,
    newline: torch.Tensor | None = None,
    image_size: tuple[int, int] | None = None,
) -> PlacedTokens:
    """The tokens of an image's crops in one sequence, with their places in the unpruned one.

    Args:
        chosen: (K, T, D) tokens, projected; or (1, T, D) of all crops.
        positions: the setting, "original" or "after".
        patches: N.
        crops: K.
        has_crops: whether the image was cut into crops, even if into one. The others are then as in `join_crops`.

    Raises InputError as `join_crops`, and for merged tokens without the image's size where that decides the places.
    """
    kept = chosen.patches
    if kept is None:
        rows, number = chosen.tokens.shape[:2]
        spread = spread_patches(patches * crops // rows, number)
        kept = torch.tensor([spread] * rows, dtype=torch.long, device=chosen.tokens.device)
    if len(kept) > 1:
        kept = kept + patches * torch.arange(len(kept), device=kept.device).unsqueeze(1)
    if not has_crops:
        tokens, places, room = chosen.tokens[0], kept[0], patches
    else:
        sheet = Sheet.of(config, tower, newline is not None, image_size, crops)
        tokens = join_crops(chosen, config, tower, newline, image_size, crops)
        marks = replace(chosen, tokens=sheet.places(kept).unsqueeze(-1))
        mark = None if newline is None else kept.new_tensor([-1])  # in place of newlines, whose places are filled in
        places, room = join_crops(marks, config, tower, mark, image_size, crops).squeeze(-1), sheet.room
        is_newline = places < 0
        places = places.masked_scatter(is_newline, sheet.newlines(int(is_newline.sum()), places.device))
    if positions == AFTER:
        places = torch.arange(len(tokens), device=places.device)
    return PlacedTokens(tokens, places, room)


@dataclass(frozen=True)
class Sheet:
    """The unpruned sequence of crops: the whole picture, then the large one row by row, as `merge_crops` has them.

    Attributes:
        side: patches along one side of a crop.
        crops: K.
        across: crops in a row of the large picture; 0 where crops follow one another as they are.
        box: (top, bottom, left, right) of the large picture in patches, less its padding.
        size: (height, width) of what the box is shrunk to, in tokens.
        has_newlines: whether a newline ends each row.
    """

    side: int
    crops: int
    across: int = 0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    size: tuple[int, int] = (0, 0)
    has_newlines: bool = False

    @classmethod
    def of(
        cls, config, tower: VisionTower, has_newline: bool, image_size: tuple[int, int] | None, crops: int
    ) -> "Sheet":
        """That of an image's crops; the arguments are those of `join_crops`."""
        side, merge_type = tower.num_patches_per_side, config.mm_patch_merge_type
        has_newlines = has_newline and merge_type.startswith("spatial") and "unpad" in merge_type
        if crops == 1 or not merge_type.startswith("spatial"):
            return cls(side, crops, has_newlines=has_newlines)
        across, down = crop_grid(config, tower, image_size, crops)
        height, width = down * side, across * side
        box = unpad_box(width, height, image_size) if has_newlines else (0, height, 0, width)
        size, most_crops = (box[1] - box[0], box[3] - box[2]), anyres_max(config.image_aspect_ratio)
        if has_newlines and most_crops is not None:
            size = shrunk_size(*size, most_crops, side)
        return cls(side, crops, across, box, size, has_newlines)

    @property
    def room(self) -> int:
        """The length of the sequence."""
        if not self.across:
            return self.crops * self.side**2 + self.has_newlines
        return self.side**2 + self.size[0] * (self.size[1] + self.has_newlines)

    def places(self, patches: torch.LongTensor) -> torch.LongTensor:
        """The index in the sequence of each of the patches, which are numbered one crop after the other.

        Padding stands at the patch nearest to it, and a row or column that is shrunk with those around it.
        """
        if not self.across:
            return patches
        y, x = row_and_column((patches - self.side**2).clamp(min=0), self.across, self.side)
        top, bottom, left, right = self.box
        y = (y.clamp(top, bottom - 1) - top) * self.size[0] // (bottom - top)
        x = (x.clamp(left, right - 1) - left) * self.size[1] // (right - left)
        behind = self.side**2 + y * (self.size[1] + self.has_newlines) + x
        return patches.where(patches < self.side**2, behind)

    def newlines(self, number: int, device: torch.device) -> torch.LongTensor:
        """(number,): the indices of the newlines of so many rows of the box; of a single one, at the end of all."""
        if number == 1:
            return torch.tensor([self.room - 1], device=device)
        rows = torch.arange(number, device=device) * self.size[0] // max(number, 1)
        return self.side**2 + rows * (self.size[1] + 1) + self.size[1]
