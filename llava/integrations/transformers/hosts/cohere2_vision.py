"""Command A Vision: a SigLIP tower, 2 x 2 patches of a crop shuffled into one token."""

from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.crops import CropHost


class Cohere2VisionHost(CropHost):
    models = ("Cohere2VisionForConditionalGeneration",)
    knows_pictures = False  # the processor writes words between the crops of a picture

    def merged(self, model: PreTrainedModel) -> int:
        return model.config.downsample_factor


HOST = Cohere2VisionHost()
