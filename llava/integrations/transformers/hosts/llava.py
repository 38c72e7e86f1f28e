"""LLaVA 1.5 in transformers' own class: one crop an image, N visual tokens of it. Pixtral 12B is of this class too."""

from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Picture
from llava.integrations.transformers.hosts.crops import CropHost, read_options
from llava.integrations.transformers.hosts.pixtral import PixtralHost


class LlavaHost(CropHost):
    models = ("LlavaForConditionalGeneration",)
    inputs = ("pixel_values", "image_sizes", "vision_feature_layer", "vision_feature_select_strategy")

    def options(self, model: PreTrainedModel, given: dict) -> dict:
        return read_options(model, given)

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        return (_PIXTRAL if _is_pixtral(model) else super()).encode(model, token, given)

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        return (_PIXTRAL if _is_pixtral(model) else super()).largest_crop(model, given)


def _is_pixtral(model: PreTrainedModel) -> bool:
    return model.config.vision_config.model_type == "pixtral"


_PIXTRAL = PixtralHost()
HOST = LlavaHost()
