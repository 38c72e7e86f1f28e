"""The bundled model in the classes of transformers, and its questions as inputs of them."""

from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.constants import IMAGE_TOKEN_INDEX
from llava.inference.request import make_request
from llava.model.converting import convert_checkpoint
from llava.vision.pictures import load_image
from llava.vision.pixels import process_images
from tests.conftest import ROOT

LLAVA = ROOT / "playground" / "checkpoints" / "llava-tiny"
DATA = ROOT / "playground" / "data" / "scenes"


def in_hf_layout(folder: Path) -> LlavaForConditionalGeneration:
    """The bundled model as LLaVA in transformers has it, with its processor written to `folder`."""
    convert_checkpoint(str(LLAVA), folder, "hf", 10**9)
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def inputs_of(loaded, question, hf: LlavaForConditionalGeneration) -> dict:
    """A question of a benchmark as the processor of llava-hf would write it, its picture as the package cuts it."""
    tokenizer, model, image_processor, _ = loaded
    request = make_request(question.asked, [question.image], "vicuna_v1", model.config, as_displayed=False)
    ids = tokenizer_image_token(request.prompt, tokenizer)
    patches = model.get_vision_tower().num_patches
    ids = [
        i for token in ids for i in ([hf.config.image_token_id] * patches if token == IMAGE_TOKEN_INDEX else [token])
    ]
    pixels = process_images([load_image(question.image)], image_processor, model.config)
    return {"input_ids": torch.tensor([ids]), "pixel_values": pixels.float()}
