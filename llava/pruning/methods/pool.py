"""The picture made smaller after the tower: each token is the mean of the projected features of one cell of a grid.

The idea is that of UniPruneBench, arXiv 2511.02650, for square grids; the grid for a budget is that of `uniform`, whose
cells are at most twice as long as wide. It may have fewer than T cells, and so many tokens are returned. A cell has the
patches that it overlaps, so that neighbours share some where the grid does not divide the picture.
"""

import math

import torch
from torch.nn.functional import adaptive_avg_pool2d

from llava.pruning.method import Method
from llava.pruning.methods.uniform import cells, middles
from llava.pruning.settings import Settings
from llava.pruning.tokens import MergedTokens
from llava.pruning.views import Views


class Pool(Method):
    merges = True
    each_crop_alone = True  # crops together have no grid

    def count(self, number: int, patches: int) -> int:
        """As `Method.count`, of a crop that is a square, or as near to one as so many patches can be."""
        side = next(side for side in range(math.isqrt(patches), 0, -1) if patches % side == 0)
        return math.prod(cells(side, patches // side, number))

    def select(self, views: Views, settings: Settings) -> MergedTokens:
        crops, number = [], settings.visual_token_num
        for features, (height, width) in zip(views.projected, views.grid.tolist()):
            grid = features.T.unflatten(1, (height, width))
            grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
            mean = adaptive_avg_pool2d(grid, cells(height, width, number)).flatten(1).T
            crops.append((mean.to(features.dtype), torch.tensor(middles(height, width, number))))
        tokens, patches = (torch.stack(part) for part in zip(*crops))
        return MergedTokens(tokens, patches.to(tokens.device), projected=True)


METHOD = Pool()
