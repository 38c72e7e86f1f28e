"""Gemma 3: a SigLIP tower, whose patches are averaged into 256 tokens a crop, which attend to one another."""

from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.crops import CropHost


class Gemma3Host(CropHost):
    models = ("Gemma3ForConditionalGeneration",)
    aligned = ("token_type_ids",)  # which say what attends to one another
    knows_pictures = False  # the processor writes words between the crops of a picture

    def merged(self, model: PreTrainedModel) -> int:
        return model.model.multi_modal_projector.kernel_size


HOST = Gemma3Host()
