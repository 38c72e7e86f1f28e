"""The bundled model in the classes of transformers, and its questions as inputs of them."""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.constants import IMAGE_TOKEN_INDEX
from llava.inference.request import make_request
from llava.vision.pictures import load_image
from llava.vision.pixels import process_images
from tests.conftest import ROOT

LLAVA = ROOT / "playground" / "checkpoints" / "llava-tiny"
DATA = ROOT / "playground" / "data" / "scenes"


def in_hf_layout(model) -> LlavaForConditionalGeneration:
    """The same weights as LLaVA in transformers has them; its vocabulary ends with <image> and rows of padding.

    `model` is of the `llava` package. The new rows are copies of the pad token's, which is never an answer.
    """
    config, tower = model.config, model.get_vision_tower()
    size = (config.vocab_size + 1 + 63) // 64 * 64
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "rms_norm_eps", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id")  # fmt: skip
    text = LlamaConfig(vocab_size=size, **{name: getattr(config, name) for name in names})
    vision = CLIPVisionConfig(**{k: v for k, v in tower.config.to_dict().items() if k != "model_type"})
    hf = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=config.vocab_size)
    )
    state = {f"model.language_model.{name}": value for name, value in _text_weights(model).items()}
    state["lm_head.weight"] = model.lm_head.weight
    projector = model.get_model().mm_projector
    for place, layer in (("linear_1", projector[0]), ("linear_2", projector[2])):
        state |= {f"model.multi_modal_projector.{place}.{name}": value for name, value in layer.state_dict().items()}
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        rows = state[name]
        state[name] = torch.cat([rows, rows[config.pad_token_id].expand(size - len(rows), -1)])
    missing, unexpected = hf.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    assert not unexpected
    assert all(name.startswith("model.vision_tower.") for name in missing)
    hf.model.vision_tower.load_state_dict(tower.vision_tower.float().state_dict())
    hf.generation_config.pad_token_id = config.pad_token_id
    hf.generation_config.eos_token_id = config.eos_token_id
    return hf.eval()


def _text_weights(model) -> dict:
    weights = model.get_model().state_dict()
    return {name: value for name, value in weights.items() if not name.startswith(("vision_tower", "mm_projector"))}


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
