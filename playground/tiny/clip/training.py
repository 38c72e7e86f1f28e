"""The training of the tiny CLIP."""

import argparse
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import CLIPModel

from llava.errors import InputError
from playground.tiny.clip.data import CaptionedScenes, DrawOrder, place_caption
from playground.tiny.clip.losses import batch_losses
from playground.tiny.clip.model import SIDE, image_processor, make_model, make_tokenizer
from playground.tiny.options import make_folder
from playground.tiny.scenes import Scene, training_scenes

logger = logging.getLogger(__name__)

LOG_STEPS = 25


def learning_rate(step: int, region_steps: int, scene_steps: int, patch_steps: int, peak: float) -> float:
    """The learning rate of a step.

    On regions it rises linearly to `peak` and stays there. On whole scenes it falls to zero as a cosine. On single
    patches it rises again, to two thirds of `peak`, and falls to zero as a cosine.
    """
    if step < region_steps:
        return peak * min(1.0, (step + 1) / 100)
    step -= region_steps
    if step < scene_steps:
        return peak * 0.5 * (1 + math.cos(math.pi * step / scene_steps))
    step -= scene_steps
    return peak * min(1.0, (step + 1) / 30) / 3 * (1 + math.cos(math.pi * step / patch_steps))


class Progress:
    """Logs the means of the losses, and the speed, every `LOG_STEPS` steps."""

    def __init__(self, first: int, steps: int, batch_size: int) -> None:
        self.first, self.steps, self.batch_size = first, steps, batch_size
        self.begin, self.sums = time.monotonic(), np.zeros(6)

    def add(self, done: int, values: list[float]) -> None:
        """Note the six values of the step that made it `done` steps: loss and share found of each part."""
        self.sums += values
        if done % LOG_STEPS == 0:
            speed = (done - self.first) * self.batch_size / (time.monotonic() - self.begin)
            text = "step %d/%d, loss and found: regions %.3f %.3f, scenes %.3f %.3f, patches %.3f %.3f, %.0f pictures/s"
            logger.info(text, done, self.steps, *(self.sums / LOG_STEPS), speed)
            self.sums[:] = 0


def read_scenes(images: Path, number: int) -> list[Scene]:
    """The training scenes. Raises InputError if the folder lacks any of their pictures."""
    scenes = list(training_scenes(number))
    missing = [scene.seed for scene in scenes if not (images / f"{scene.seed:08d}.jpg").is_file()]
    if missing:
        raise InputError(f"{images} lacks {len(missing)} of the {len(scenes)} pictures: see playground.tiny.data")
    return scenes


def make_optimizer(model: CLIPModel) -> torch.optim.AdamW:
    """AdamW with weight decay for matrices only."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def load_state(file: Path, model: CLIPModel, optimizer: torch.optim.Optimizer) -> int:
    """Load the state of an interrupted run, if there is one. Returns the number of steps done."""
    if not file.exists():
        return 0
    state = torch.load(file, map_location=model.device, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def save_state(file: Path, model: CLIPModel, optimizer: torch.optim.Optimizer, done: int) -> None:
    """Save the state after `done` steps. An older state stays until the new one is complete."""
    part = file.with_suffix(".part")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}, part)
    part.replace(file)


def train(args: argparse.Namespace) -> None:
    """Train to the end, from the last state in `args.output` if there is one. Writes a CLIP checkpoint there."""
    torch.manual_seed(0)
    scenes = read_scenes(args.images, args.scenes)
    make_folder(args.output)
    tokenizer = make_tokenizer([*(scene.caption for scene in scenes), *map(place_caption, range(SIDE * SIDE))])
    model = make_model(tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = make_optimizer(model)
    whole_from, patches_from = args.region_steps, args.region_steps + args.scene_steps
    steps, state_file = patches_from + args.patch_steps, args.output / "state.pt"
    first = load_state(state_file, model, optimizer)
    if first:
        logger.info("going on after step %d of %d", first, steps)
    size = args.batch_size
    data = CaptionedScenes(scenes, args.images, whole_from * size, patches_from * size)
    order = DrawOrder(len(scenes), steps * size, first * size)
    progress = Progress(first, steps, size)
    for step, batch in enumerate(DataLoader(data, size, sampler=order, num_workers=args.workers), start=first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.region_steps, args.scene_steps, args.patch_steps, args.learning_rate)
        parts = batch_losses(model, tokenizer, batch, step >= whole_from, step >= patches_from)
        optimizer.zero_grad()
        sum(loss for loss, _ in parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        done = step + 1
        progress.add(done, [value.item() for part in parts for value in part])
        if done % args.save_steps == 0 or done == steps:
            save_state(state_file, model, optimizer, done)
    model.half().save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    image_processor().save_pretrained(args.output)
