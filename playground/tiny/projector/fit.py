"""The projector from the features of a patch to the words that describe it."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from tqdm import trange
from transformers import AutoConfig, AutoModelForCausalLM

from llava.checkpoints.tokenizer import load_tokenizer
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from playground.tiny.drawing import draw_scene
from playground.tiny.muon import MuonWithRest
from playground.tiny.patches import words_of_patches
from playground.tiny.scenes import Scene, training_scenes

SCENES, STEPS, PATCHES = 1500, 1500, 4096


@dataclass
class Samples:
    """Patches, and what the projector is to make of them.

    Args:
        features: (patches, C) float32.
        targets: (texts, D) float32, the sum of the embeddings of the words of each text.
        text: (patches,) int64, the number of each patch's text.
        is_object: (patches,) bool, whether the patch shows an object or a sign, not background.
        count: the first patches, which are trained on; the rest is for the measurement.
    """

    features: torch.Tensor
    targets: torch.Tensor
    text: torch.Tensor
    is_object: torch.Tensor
    count: int


@torch.no_grad()
def read_patches(tower: CLIPVisionTower, scenes: list[Scene]) -> tuple[torch.Tensor, list[str]]:
    """The features (patches, C) of all patches of the scenes, and the words that describe each."""
    words = [text for scene in scenes for text in words_of_patches(scene)]
    features = []
    for start in range(0, len(scenes), 50):
        pictures = [draw_scene(scene) for scene in scenes[start : start + 50]]
        features.append(tower(tower.image_processor(pictures, return_tensors="pt").pixel_values).flatten(0, 1))
    return torch.cat(features), words


def make_samples(tower: CLIPVisionTower, llama: Path) -> Samples:
    """The patches of `SCENES` training scenes, nine tenths of them to train on."""
    tokenizer = load_tokenizer(llama)
    embeddings = AutoModelForCausalLM.from_pretrained(llama).get_input_embeddings().weight.detach().float()
    features, words = read_patches(tower, list(training_scenes(SCENES)))
    texts = {text: i for i, text in enumerate(dict.fromkeys(words))}
    targets = torch.stack([embeddings[tokenizer(text).input_ids[1:]].sum(dim=0) for text in texts])
    return Samples(
        features,
        targets,
        text=torch.tensor([texts[text] for text in words]),
        is_object=torch.tensor([" " in text for text in words]),  # a background has a name of one word
        count=int(0.9 * len(features)),
    )


def train(projector: nn.Sequential, samples: Samples) -> None:
    """Train the projector on the first `samples.count` patches."""
    features, text = samples.features[: samples.count], samples.text[: samples.count]
    # Most patches show background. Those of objects are drawn ten times as often.
    weight = 1 / torch.where(samples.is_object, 1.0, 10.0)[: samples.count]
    deviation, mean = torch.std_mean(features, dim=0)
    matrices = [layer.weight for layer in (projector[0], projector[2])]
    adam = torch.optim.AdamW(projector.parameters(), lr=3e-3, weight_decay=0)
    optimizer = MuonWithRest(matrices, adam, lr=1e-2, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    for _ in trange(STEPS, desc="training the projector"):
        rows = torch.multinomial(weight, PATCHES)
        output = projector((features[rows] - mean) / deviation)
        loss = (output - samples.targets[text[rows]]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():  # the first layer takes over the normalisation
        projector[0].weight /= deviation
        projector[0].bias -= projector[0].weight @ mean


@torch.no_grad()
def explained_variance(projector: nn.Sequential, samples: Samples) -> float:
    """The share of the variance of the targets that the projector explains, on patches of objects not trained on."""
    rest = torch.arange(len(samples.features)) >= samples.count
    measured = (samples.is_object & rest).nonzero().flatten()
    wanted = samples.targets[samples.text[measured]]
    residual = (projector(samples.features[measured]) - wanted).square().sum()
    return (1 - residual / (wanted - wanted.mean(0)).square().sum()).item()


def fit_projector(clip: Path, llama: Path) -> tuple[dict[str, torch.Tensor], float]:
    """The weights of a mlp2x_gelu projector, under their published names, and the `explained_variance`."""
    torch.manual_seed(0)
    tower = CLIPVisionTower(clip, SimpleNamespace(mm_vision_select_layer=-2))
    samples = make_samples(tower, llama)
    config = AutoConfig.from_pretrained(llama)
    config.mm_projector_type, config.mm_hidden_size = "mlp2x_gelu", tower.hidden_size
    projector = build_vision_projector(config)
    train(projector, samples)
    explained = explained_variance(projector, samples)
    return {f"model.mm_projector.{name}": value for name, value in projector.state_dict().items()}, explained
