"""Aya Vision and Command A Vision: a SigLIP tower, 2 x 2 patches of a crop shuffled into one token."""

from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.crops import CropHost, read_options


class AyaVisionHost(CropHost):
    models = ("AyaVisionForConditionalGeneration", "Cohere2VisionForConditionalGeneration")
    inputs = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")
    knows_pictures = False  # the processors write words between the crops of a picture

    def options(self, model: PreTrainedModel, given: dict) -> dict:
        return read_options(model, given) if hasattr(model.config, "vision_feature_layer") else {}

    def merged(self, model: PreTrainedModel) -> int:
        return model.config.downsample_factor


HOST = AyaVisionHost()
