"""What the tiny CLIP has learned, on held-out scenes."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPModel, PreTrainedTokenizerFast

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from playground.tiny.clip.model import embed_texts
from playground.tiny.drawing import jpeg
from playground.tiny.patches import object_patches
from playground.tiny.scenes import Scene, evaluation_scenes

NUMBER = 256


def retrieval_at_1(clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, pixels: torch.Tensor, captions: list) -> float:
    """The share of pictures (B, 3, H, W) whose embedding is nearer to their own caption's than to any other's."""
    image = F.normalize(clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output), dim=-1)
    text = embed_texts(clip, tokenizer, captions)
    return (image @ text.T).argmax(dim=1).eq(torch.arange(len(image))).float().mean().item()


def attention_on_objects(tower: CLIPVisionTower, pixels: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """How much [CLS] attention the patches of objects get.

    Returns the mean share of such patches, the mean share of [CLS] attention that they get, and the ratio of the second
    to the first, once as the mean over the pictures and once of the two means.
    """
    _, attention = tower(pixels, output_attentions=True)
    attention = attention.mean(dim=1)
    attention = (attention / attention.sum(dim=1, keepdim=True)).numpy()
    objects = np.stack([object_patches(scene).reshape(-1) for scene in scenes])
    patches, mass = objects.mean(axis=1), (attention * objects).sum(axis=1)
    return {
        "object_patches": float(patches.mean()),
        "attention_on_objects": float(mass.mean()),
        "times_chance": float((mass / patches).mean()),
        "times_chance_overall": float(mass.mean() / patches.mean()),
    }


@torch.no_grad()
def measure(folder: Path) -> dict[str, float]:
    """Both measures of the CLIP checkpoint in a folder, in float32 on the CPU."""
    scenes = evaluation_scenes()["any"][:NUMBER]
    tower = CLIPVisionTower(folder, SimpleNamespace(mm_vision_select_layer=-2))
    pictures = [Image.open(io.BytesIO(jpeg(scene))) for scene in scenes]
    pixels = tower.image_processor(pictures, return_tensors="pt").pixel_values
    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    found = retrieval_at_1(clip, tokenizer, pixels, [scene.caption for scene in scenes])
    return {"retrieval_at_1_of_256": found, **attention_on_objects(tower, pixels, scenes)}
