"""What upstream's programs import from `llava.mm_utils` around `generate`, and nothing in this package uses."""

import base64
from io import BytesIO

import torch
from PIL import Image
from transformers import StoppingCriteria

from llava.errors import InputError


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """Decode a base64 image file. Raises InputError if that cannot be done."""
    try:
        opened = Image.open(BytesIO(base64.b64decode(image)))
        opened.load()
    except Exception as error:  # of any class: see `pictures.read_picture`
        raise InputError("cannot read the base64 image: it is not base64, or not a whole picture") from error
    return opened


class KeywordsStoppingCriteria(StoppingCriteria):
    """Stop a sample once its newest tokens are, or their text contains, one of the keywords.

    `input_ids` is the prompt (B, length); where the ids under test begin with it, it is not searched.
    """

    def __init__(self, keywords: list[str], tokenizer, input_ids: torch.LongTensor):
        self.keywords = keywords
        self.tokenizer = tokenizer
        self.prompt_ids = input_ids
        self.start_len = input_ids.shape[1]
        self.keyword_ids = []
        for keyword in keywords:
            ids = tokenizer(keyword).input_ids
            self.keyword_ids.append(ids[1:] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else ids)
        self.max_keyword_len = max(map(len, self.keyword_ids), default=0)

    def _is_done(self, new_ids: torch.LongTensor) -> bool:
        tail = new_ids[-self.max_keyword_len :].tolist() if self.max_keyword_len else []
        if any(tail[-len(ids) :] == ids for ids in self.keyword_ids):
            return True
        text = self.tokenizer.decode(tail, skip_special_tokens=True)
        return any(keyword in text for keyword in self.keywords)

    def __call__(self, output_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        """(B, length) ids generated so far -> (B,) bool, true where generation should stop."""
        head = output_ids[:, : self.start_len]
        repeats_prompt = head.shape == self.prompt_ids.shape and torch.equal(head, self.prompt_ids.to(head.device))
        new_ids = output_ids[:, self.start_len :] if repeats_prompt else output_ids
        return torch.tensor([self._is_done(ids) for ids in new_ids], device=output_ids.device)
