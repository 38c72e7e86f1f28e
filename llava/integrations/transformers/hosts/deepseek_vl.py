"""DeepSeek-VL with its SigLIP tower alone: one crop an image."""

from llava.integrations.transformers.hosts.crops import CropHost


class DeepseekVLHost(CropHost):
    models = ("DeepseekVLForConditionalGeneration",)
    tower = "vision_model"


HOST = DeepseekVLHost()
