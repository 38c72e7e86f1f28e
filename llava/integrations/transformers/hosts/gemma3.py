"""Gemma 3: a SigLIP tower, whose patches are averaged into 256 tokens a crop, which attend to one another."""

from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture
from llava.integrations.transformers.hosts.llava import whole_crops
from llava.integrations.transformers.hosts.vit import pool_mean, run_of
from llava.pruning import Views
from llava.pruning.views import square_grids


class Gemma3Host(Host):
    models = ("Gemma3ForConditionalGeneration",)
    aligned = ("token_type_ids",)  # which say what attends to one another
    knows_pictures = False  # the processor writes words between the crops of a picture

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, stride = given["pixel_values"], model.model.multi_modal_projector.kernel_size
        with run_of(model.model.vision_tower, -1, "full") as run:
            tokens = model.model.get_image_features(pixels).pooler_output
        views = Views(
            tokens,
            importance=lambda: pool_mean(run.importance(), stride),
            pixels=pixels,
            projected=tokens,
            grid=square_grids(*tokens.shape[:2]),
        )
        return [whole_crops(tokens[i], views.crops(slice(i, i + 1))) for i in range(len(pixels))]

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        return model.config.mm_tokens_per_image


HOST = Gemma3Host()
