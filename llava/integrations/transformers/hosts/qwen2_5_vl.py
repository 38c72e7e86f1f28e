"""Qwen2.5-VL: as Qwen2-VL, and most layers of its tower attend within windows."""

import torch
from transformers.vision_utils import get_vision_window_index

from llava.integrations.transformers.hosts.qwen2_vl import Qwen2VLHost
from llava.integrations.transformers.importance import Watched


class Qwen2_5_VLHost(Qwen2VLHost):
    models = ("Qwen2_5_VLForConditionalGeneration",)

    def importance(self, tower: torch.nn.Module, watched: Watched, grids: torch.LongTensor) -> torch.Tensor:
        # the tower puts the tokens of a window next to each other
        window_index, _ = get_vision_window_index(
            grids,
            spatial_merge_size=tower.spatial_merge_size,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
        return super().importance(tower, watched, grids)[window_index.argsort()]


HOST = Qwen2_5_VLHost()
