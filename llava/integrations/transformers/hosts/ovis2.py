"""Ovis2: crops of a picture, whose 2 x 2 patches are a mixture of words of a visual vocabulary.

Words that say where a picture begins and ends are of that vocabulary too.
"""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.crops import CropHost


class Ovis2Host(CropHost):
    models = ("Ovis2ForConditionalGeneration",)
    knows_pictures = False  # the processor writes words between the crops of a picture

    def merged(self, model: PreTrainedModel) -> int:
        return model.config.vision_config.hidden_stride

    def more_inputs(
        self, model: PreTrainedModel, ids: torch.LongTensor, is_visual: torch.BoolTensor, embeds: torch.Tensor
    ) -> dict:
        table, words = model.model.visual_embeddings_table.weight, model.model.visual_indicator_token_ids
        if is_visual.any():
            for word, embedding in zip(words, table[-model.model.vision_tower.num_visual_indicator_tokens :]):
                embeds = torch.where((ids == word).unsqueeze(-1), embedding.to(embeds), embeds)
        return {"inputs_embeds": embeds}


HOST = Ovis2Host()
