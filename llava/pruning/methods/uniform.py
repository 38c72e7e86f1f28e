"""Patches evenly spread over the picture, the baseline that looks at nothing.

The patches in the middle of the cells of a grid h x w, and for a budget that is no such product as many more, evenly
spread over those that are left. The grid is the one that `pool` averages over, so that both see the picture alike.
"""

import torch

from llava.pruning.method import Method
from llava.pruning.settings import Settings
from llava.pruning.tokens import VisualTokens
from llava.pruning.views import Views

MOST_STRETCHED = 2  # a cell's longer side, in its shorter ones


class Uniform(Method):
    each_crop_alone = True  # crops together have no grid

    def select(self, views: Views, settings: Settings) -> VisualTokens:
        kept = [centres(*grid, settings.visual_token_num) for grid in views.grid.tolist()]
        return views.keep(torch.tensor(kept, device=views.features.device))


METHOD = Uniform()


def cells(height: int, width: int, number: int) -> tuple[int, int]:
    """The grid h x w of at most `number` cells over height x width patches.

    Of those whose cells are at most twice as long as wide, the one with the most cells, then the one with the squarest
    cells, then the lowest; 1 x 1 if there is none.
    """
    grids = []
    for h in range(1, min(height, number) + 1):
        for w in range(1, min(width, number // h) + 1):
            shorter, longer = sorted((h * width, w * height))
            if longer <= MOST_STRETCHED * shorter:
                grids.append((-h * w, longer / shorter, h, w))
    return min(grids)[2:] if grids else (1, 1)


def middles(height: int, width: int, number: int) -> list[int]:
    """The patches in the middle of the cells for `number` of height x width patches, in raster order."""
    h, w = cells(height, width, number)
    rows = [(2 * i + 1) * height // (2 * h) for i in range(h)]
    columns = [(2 * j + 1) * width // (2 * w) for j in range(w)]
    return [row * width + column for row in rows for column in columns]


def centres(height: int, width: int, number: int) -> list[int]:
    """`number` of height x width patches, ascending: the centres of the cells, and what is missing from the others."""
    kept = set(middles(height, width, number))
    others = [patch for patch in range(height * width) if patch not in kept]
    missing = number - len(kept)
    kept.update(others[(2 * r + 1) * len(others) // (2 * missing)] for r in range(missing))
    return sorted(kept)
