"""DeepSeek-VL: one crop an image and a SigLIP tower; larger models put a token of a second tower beside each of its."""

from llava.integrations.transformers.hosts.crops import CropHost

_SECOND = "high_res_pixel_values"


class DeepseekVLHost(CropHost):
    models = ("DeepseekVLForConditionalGeneration", "DeepseekVLHybridForConditionalGeneration")
    inputs = ("pixel_values", _SECOND)
    tower = "vision_model"

    def more_options(self, given: dict) -> dict:
        return {_SECOND: given[_SECOND]} if given.get(_SECOND) is not None else {}


HOST = DeepseekVLHost()
