"""GLM-4.1V, GLM-4.5V and GLM-4.6V: as Qwen2-VL, but the frames of a video have the placeholders of images."""

from transformers import PreTrainedModel

from llava.errors import InputError
from llava.integrations.transformers.hosts.qwen2_vl import Qwen2VLHost


class Glm4vHost(Qwen2VLHost):
    models = (
        "Glm4vForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "Glm46VForConditionalGeneration",
    )

    def split(self, model: PreTrainedModel, given: dict) -> list[tuple[int, list[dict]]]:
        (image, images), (_, videos) = super().split(model, given)
        if images and videos:
            raise InputError(f"{type(model).__name__} is pruned for images or for videos: a call has both")
        return [(image, images or videos)]


HOST = Glm4vHost()
