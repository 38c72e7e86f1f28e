"""PaliGemma: a SigLIP tower, one crop an image; positions begin at 1, and all before the answer attends to itself."""

from llava.integrations.transformers.hosts.crops import CropHost


class PaliGemmaHost(CropHost):
    models = ("PaliGemmaForConditionalGeneration",)
    aligned = ("token_type_ids",)  # 0 for what attends to one another
    first_position = 1


HOST = PaliGemmaHost()
