"""What the tiny CLIP is trained on: pictures, captions, and the texts for some of a picture's patches."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from playground.tiny.clip.model import SIDE
from playground.tiny.patches import words_of_patches
from playground.tiny.scenes import COLORS, PATCH, PLACES, SHAPES, SIZE, SIZES, WORDS, Scene


def change_one_detail(scene: Scene, rng: random.Random) -> Scene:
    """A scene whose caption differs from this one's in a single detail of one object or the sign."""

    def draw_other(options, current: str) -> str:
        return rng.choice([option for option in options if option != current])

    sign, i = scene.sign, rng.randrange(len(scene.things))
    if sign is not None and rng.random() < 0.45:
        return replace(scene, sign=replace(sign, word=draw_other(WORDS, sign.word)))
    thing, detail = scene.things[i], rng.random()
    if detail < 0.45:
        thing = replace(thing, shape=draw_other(SHAPES, thing.shape))
    elif detail < 0.65:
        thing = replace(thing, color=draw_other(COLORS, thing.color))
    elif detail < 0.8:
        thing = replace(thing, size=draw_other(SIZES, thing.size))
    else:
        row, column = divmod(PLACES.index(draw_other(PLACES, thing.place)), 3)
        thing = replace(thing, x=(column * 2 + 1) * SIZE // 6, y=(row * 2 + 1) * SIZE // 6)
    return replace(scene, things=(*scene.things[:i], thing, *scene.things[i + 1 :]))


def place_caption(patch: int) -> str:
    """A caption for one patch that gives only its row and column."""
    return f"row {patch // SIDE} column {patch % SIDE}"


def draw_region(scene: Scene, rng: random.Random) -> tuple[torch.Tensor, str]:
    """The region of an object or the sign: its 21 nearest patches, (21,) int64, nearest first, and a text for it."""
    if scene.sign is not None and rng.random() < 0.6:
        part, name, stretch = scene.sign, scene.sign.word, 0.4
    else:
        part = rng.choice(scene.things)
        name, stretch = part.shape, 1.0
    y, x = torch.meshgrid(*[torch.arange(SIDE) * PATCH + PATCH // 2] * 2, indexing="ij")
    distance = ((x - part.x) * stretch) ** 2 + (y - part.y) ** 2
    return distance.flatten().argsort(stable=True)[:21], name if rng.random() < 0.7 else part.phrase


def draw_patches(scene: Scene, rng: random.Random) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Eight patches, (8,) int64, and the words that describe them.

    Six show objects or the sign, each as often as the others whatever its size; the last two show the background.
    """
    words = words_of_patches(scene)
    patches_of = {text: [i for i, other in enumerate(words) if other == text] for text in set(words)}
    background = patches_of.pop(scene.background)
    shown = sorted(patches_of)
    chosen = [rng.choice(patches_of[rng.choice(shown)]) for _ in range(6)] + rng.sample(background, 2)
    return torch.tensor(chosen), tuple(words[patch] for patch in chosen)


class CaptionedScenes(Dataset):
    """The training scenes, each with its caption and texts for some of its patches.

    A sample is drawn by (index of the scene, number of the draw), and consists of the pixels, (3, 168, 168) uint8, the
    caption, a caption that is wrong in one detail, a region's patches, (21,) int64, and its text, and single patches,
    (8,) int64, and their words.

    Args:
        scenes: the training scenes.
        images: the folder of their pictures.
        whole_from: from this draw on, a third of the regions are one patch, repeated, with its place as text.
        patches_from: before this draw, a sample has no single patches.
    """

    def __init__(self, scenes: list[Scene], images: Path, whole_from: int, patches_from: int) -> None:
        self.scenes, self.images = scenes, images
        self.whole_from, self.patches_from = whole_from, patches_from

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        index, draw = key
        scene, rng = self.scenes[index], random.Random(f"{key}")
        patches, name = draw_region(scene, rng)
        if draw >= self.whole_from and rng.random() < 0.35:
            patch = rng.randrange(SIDE * SIDE)
            patches, name = torch.full_like(patches, patch), place_caption(patch)
        with Image.open(self.images / f"{scene.seed:08d}.jpg") as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        wrong = change_one_detail(scene, rng).caption
        single = draw_patches(scene, rng) if draw >= self.patches_from else (torch.empty(0, dtype=torch.long), ())
        return pixels, scene.caption, wrong, patches, name, *single


class DrawOrder(Sampler):
    """The (index, number of the draw) keys of all steps, shuffled anew in each epoch.

    Args:
        length: number of scenes.
        total: number of draws of the whole training.
        skip: draws that an interrupted run has done already.
    """

    def __init__(self, length: int, total: int, skip: int) -> None:
        self.length, self.total, self.skip = length, total, skip

    def __len__(self) -> int:
        return self.total - self.skip

    def __iter__(self):
        for position in range(self.skip, self.total):
            epoch, place = divmod(position, self.length)
            if place == 0 or position == self.skip:
                order = np.random.default_rng(epoch).permutation(self.length)
            yield int(order[place]), position
