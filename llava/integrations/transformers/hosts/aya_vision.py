"""Aya Vision: a SigLIP tower, 2 x 2 patches of a crop shuffled into one token."""

from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.crops import CropHost, read_options


class AyaVisionHost(CropHost):
    models = ("AyaVisionForConditionalGeneration",)
    inputs = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")
    knows_pictures = False  # the processor writes words between the crops of a picture

    def options(self, model: PreTrainedModel, given: dict) -> dict:
        return read_options(model, given)

    def merged(self, model: PreTrainedModel) -> int:
        return model.config.downsample_factor


HOST = AyaVisionHost()
