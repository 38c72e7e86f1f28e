"""The tiny CLIP: its tokenizer, its weights before training, and the embeddings that are trained."""

import math

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from llava.pruning import keep_patches
from playground.tiny.scenes import PATCH, SIZE

SIDE = SIZE // PATCH  # patches of a row
WIDTH, VISION_LAYERS, TEXT_LAYERS, HEADS = 128, 5, 2, 4
MAX_WORDS = 77


def make_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each word of the captions, and CLIP's tokens for the beginning and the end."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer.train_from_iterator(captions, trainers.WordLevelTrainer(special_tokens=marks))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[(mark, i) for i, mark in enumerate(marks)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=marks[0],
        eos_token=marks[1],
        unk_token=marks[1],
        pad_token=marks[1],
        model_max_length=MAX_WORDS,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """A small CLIP of the published architecture, with 144 patches, before training.

    The position embeddings start as large as the details of a picture. If they start small, the brightness of a patch
    hides its place after two layers (a linear probe finds the column of 14 % of the patches), and a model that reads
    the features cannot tell left from right.
    """
    size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS, "projection_dim": WIDTH}
    marks = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {"num_hidden_layers": TEXT_LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_WORDS}
    vision = {"num_hidden_layers": VISION_LAYERS, "image_size": SIZE, "patch_size": PATCH}
    model = CLIPModel(
        CLIPConfig(text_config=size | text | marks, vision_config=size | vision, projection_dim=WIDTH, **marks)
    )
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight[1:] += position_code()
    return model


def position_code(waves: int = 8, deviation: float = 0.5) -> torch.Tensor:
    """(144, C) float32: the initial position embeddings of the patches.

    They are cosines of the row and the column, of `waves` wavelengths each, in orthogonal random directions. Long waves
    are the strongest, so that near patches have similar codes. `deviation` is the standard deviation of the result.
    """
    directions = torch.linalg.qr(torch.randn(WIDTH, 2 * waves)).Q.T
    patch, wave = torch.arange(SIDE * SIDE), torch.arange(1, waves + 1)
    along = [
        torch.cos(math.pi * wave * (place.unsqueeze(1) + 0.5) / SIDE) / wave.sqrt()
        for place in (patch // SIDE, patch % SIDE)
    ]
    code = torch.cat(along, dim=1) @ directions
    return code * deviation / code.std()


def image_processor() -> CLIPImageProcessor:
    """The image processor: pictures of 168x168 keep their pixels, normalised by CLIP's mean and deviation."""
    return CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) uint8 -> float32, as `image_processor` normalises them."""
    processor = image_processor()
    mean, deviation = (
        torch.tensor(values, device=pixels.device).view(3, 1, 1)
        for values in (processor.image_mean, processor.image_std)
    )
    return (pixels.float() / 255 - mean) / deviation


def embed_regions(model: CLIPModel, pixels: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Embeddings (B, C), of length 1, of pictures of which the tower gets only some patches.

    Args:
        pixels: (B, 3, H, W) float.
        patches: (B, n) int64, the numbers of those patches.
    """
    tower = model.vision_model
    embeddings = tower.embeddings
    visible = F.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2)
    visible = visible.gather(1, patches.unsqueeze(-1).expand(-1, -1, visible.shape[-1]))
    states = F.linear(visible, embeddings.patch_embedding.weight.flatten(1))
    states = states + embeddings.position_embedding.weight[patches + 1]
    first = embeddings.class_embedding + embeddings.position_embedding.weight[0]
    states = torch.cat([first.expand(len(states), 1, -1), states], dim=1)
    states = tower.encoder(inputs_embeds=tower.pre_layrnorm(states)).last_hidden_state
    return _project(model, states[:, 0])


def embed_scenes(model: CLIPModel, pixels: torch.Tensor, patches: torch.Tensor, single: torch.Tensor) -> tuple:
    """Embeddings, of length 1, of whole pictures (B, C), of one region of each (B, C), and of single patches (B, m, C).

    A region's embedding is the mean over its patches. Single patches are taken where LLaVA reads them, from the hidden
    states before the last layer.

    Args:
        pixels: (B, 3, H, W) float.
        patches: (B, n) int64, the patches of the regions.
        single: (B, m) int64, the single patches.
    """
    output = model.vision_model(pixel_values=pixels, output_hidden_states=True)
    states = output.last_hidden_state
    inside = keep_patches(states, patches + 1)
    early = keep_patches(output.hidden_states[-2], single + 1)
    return _project(model, states[:, 0]), _project(model, inside.mean(dim=1)), _project(model, early)


def _project(model: CLIPModel, states: torch.Tensor) -> torch.Tensor:
    states = model.visual_projection(model.vision_model.post_layernorm(states))
    return F.normalize(states.float(), dim=-1)


def embed_texts(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Embeddings (B, C), of length 1, of texts."""
    ids = tokenizer(texts, padding=True, return_tensors="pt").to(model.device)
    ids.pop("token_type_ids", None)
    return F.normalize(model.text_projection(model.text_model(**ids).pooler_output).float(), dim=-1)
