"""Gemma 3: a SigLIP tower, whose patches are averaged into 256 tokens a crop, which attend to one another.

Where its processor cuts a picture (pan and scan), it writes words between the whole picture and its crops.
"""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Picture, join_crops, runs_of
from llava.integrations.transformers.hosts.crops import CropHost
from llava.integrations.transformers.processor import processor_of, tokenizer_of

_WHOLE, _CROPS = "Here is the original image", "and here are some crops to help you see better"


class Gemma3Host(CropHost):
    models = ("Gemma3ForConditionalGeneration",)
    aligned = ("token_type_ids",)  # which say what attends to one another
    written = f"{_WHOLE}|{_CROPS}"

    def merged(self, model: PreTrainedModel) -> int:
        return model.model.multi_modal_projector.kernel_size

    def whole_pictures(
        self, model: PreTrainedModel, parts: list[Picture], ids: torch.LongTensor, is_own: torch.BoolTensor
    ) -> list[Picture]:
        """The crops of a picture follow it: <whole> and here are some crops to help you see better <crop> <crop>.

        So does an uncut picture behind a cut one where nothing but a space is written between them.
        """
        numbers, last, is_cut = [], (-1, 0, 0), False
        for row, start, end in runs_of(is_own):
            between = ids[row, last[2] : start].tolist() if row == last[0] else []
            begins = _is_written(model, between, f" {_CROPS} ")
            is_cut = begins or (is_cut and _is_written(model, between, " "))
            numbers = [*numbers[:-1], numbers[-1] + end - start] if is_cut else [*numbers, end - start]
            last = row, start, end
        return join_crops(parts, numbers)


def _is_written(model: PreTrainedModel, ids: list[int], words: str) -> bool:
    """Whether `ids` end a picture and begin another, and what the processor writes between the two are `words`."""
    if len(ids) < 2:
        return False
    tokenizer = tokenizer_of(processor_of(model, "budget_per: words tell which crops are of one picture"))
    closing, opening = tokenizer.convert_ids_to_tokens([ids[0], ids[-1]])
    text = f"{closing}\n\n{words}\n\n{opening}"
    return ids == tokenizer(text, add_special_tokens=False, verbose=False).input_ids


HOST = Gemma3Host()
